"""The logit lens against a plain loop, its theorems, its memory and its errors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle import Fact, fingerprint, organisms
from mechstyle.errors import InputError, NonFiniteError, RangeError, TextError
from mechstyle.hf_convert import quiet_deprecation
from mechstyle.runs import logits
from mechstyle.tokens import encode_fact
from mechstyle.tracing import lens_states
from mechstyle.tracing.logit_lens import LogitLens, logit_lens
from tests.checkpoints import KINDS
from tests.oracles import reading_loop

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
STATES = ("resid", "mlp", "attn")
NUMBERS = ("answer_prob", "answer_logprob", "answer_rank", "entropy", "kl")
Architectures = Callable[..., HookedTransformer]


def textbook(model: Any, ids: list[int], answer: int, state: str) -> dict[str, np.ndarray]:
    """Every number of every cell; rows of layers without a state are left out."""
    hooks = reading_loop.lens_hooks(model.cfg.n_layers, state)
    last = reading_loop.lens_hooks(model.cfg.n_layers, "resid")[-1]
    finals = reading_loop.lens_logits(model, ids, last)
    by_hook = [reading_loop.lens_logits(model, ids, hook) for hook in hooks]
    found: dict[str, list[list[float]]] = {name: [] for name in (*NUMBERS, "top_id")}
    for token in range(len(ids)):
        final = finals[token].double().log_softmax(-1)
        cells: dict[str, list[float]] = {name: [] for name in found}
        for scores in (states[token] for states in by_hook):
            logp = scores.double().log_softmax(-1)
            cells["answer_prob"].append(float(logp[answer].exp()))
            cells["answer_logprob"].append(float(logp[answer]))
            cells["answer_rank"].append(sum(one > float(scores[answer]) for one in scores.tolist()))
            cells["entropy"].append(-float((logp.exp() * logp).sum()))
            cells["kl"].append(float((final.exp() * (final - logp)).sum()))
            cells["top_id"].append(int(scores.argmax()))
        for name, values in cells.items():
            found[name].append(values)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_is_that_of_the_plain_loop_on_every_architecture(
    kind: str, architectures: Architectures
) -> None:
    model = architectures(kind)
    encoded = encode_fact(model, FACT, prepend_bos=True)
    ids = encoded.ids[: encoded.n_prompt].tolist()
    lens = logit_lens(model, FACT, states=STATES, prepend_bos=True)
    for state in STATES:
        wanted = textbook(model, ids, int(encoded.target_ids[0]), state)
        found = lens.data.sel(state=state).isel(layer=slice(0 if state == "resid" else 1, None))
        for name in NUMBERS:
            np.testing.assert_allclose(found[name].values, wanted[name], atol=1e-9, err_msg=name)
        np.testing.assert_array_equal(found["top_id"].isel(rank=0).values, wanted["top_id"])
    assert lens.data["answer_prob"].sel(state="mlp", layer=-1).isnull().all()
    assert lens.data["layer_str"].values.tolist() == ["embed", "0", "1", "2"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_last_layer_is_the_models_own_distribution(
    dtype: torch.dtype, architectures: Architectures
) -> None:
    model = architectures("gpt2", dtype)
    encoded = encode_fact(model, FACT)
    lens = logit_lens(model, FACT, top=400).data.isel(layer=-1)
    own = logits(model, encoded.ids[None, : encoded.n_prompt])[0].double().softmax(-1)
    near = {"atol": 1e-6 if dtype == torch.float32 else 2e-3}
    spread = np.zeros(own.shape)
    np.put_along_axis(spread, lens["top_id"].values, lens["top_prob"].values, -1)
    np.testing.assert_allclose(spread, own.numpy(), **near)
    np.testing.assert_allclose(lens["answer_prob"], own[:, encoded.target_ids[0]].numpy(), **near)
    np.testing.assert_allclose(lens["kl"], 0, atol=1e-6)


def test_the_top_tokens_are_named_and_in_order(tiny_model: HookedTransformer) -> None:
    lens = logit_lens(tiny_model, FACT, top=3).data
    assert (np.diff(lens["top_prob"].values, axis=-1) <= 0).all()
    names = [tiny_model.tokenizer.decode([one]) for one in lens["top_id"].values.ravel().tolist()]
    assert lens["top_token"].values.ravel().tolist() == names
    assert lens["top_token"].dims == ("token", "layer", "rank")
    hit = lens["answer_rank"] == 0
    assert (lens["answer_prob"].where(hit) == lens["top_prob"].isel(rank=0).where(hit)).where(hit, True).all()


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama-gqa"])
def test_a_processed_model_has_the_lens_of_the_plain_one(kind: str, architectures: Architectures) -> None:
    """LayerNorm does not see what centring removes, and folding moves weights behind it."""
    model = architectures(kind)
    with quiet_deprecation():
        other = HookedTransformer(copy.deepcopy(model.cfg))
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    other.load_and_process_state_dict(state)
    other.tokenizer = model.tokenizer
    assert other.cfg.normalization_type != model.cfg.normalization_type
    wanted, found = (logit_lens(one, FACT, states=STATES).data for one in (model, other.eval()))
    for name in NUMBERS:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6, err_msg=name)


def test_a_bridge_has_the_lens_of_the_hooked_model(tiny_folder: Path, tiny_model: HookedTransformer) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    wanted, found = (
        logit_lens(one, FACT, states=STATES, prepend_bos=False).data for one in (tiny_model, bridge)
    )
    for name in NUMBERS:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found["top_token"], wanted["top_token"])


def test_hooks_that_somebody_put_on_the_model_are_read_through(tiny_model: HookedTransformer) -> None:
    tiny_model.add_perma_hook("blocks.1.hook_mlp_out", lambda state, hook: 0 * state)
    tiny_model.add_perma_hook("ln_final.hook_normalized", lambda state, hook: 2 * state)
    encoded = encode_fact(tiny_model, FACT)
    wanted = textbook(
        tiny_model, encoded.ids[: encoded.n_prompt].tolist(), int(encoded.target_ids[0]), "resid"
    )
    found = logit_lens(tiny_model, FACT).data
    for name in NUMBERS:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, err_msg=name)
    without = copy.deepcopy(tiny_model)
    without.reset_hooks(including_permanent=True)
    assert not np.allclose(found["entropy"], logit_lens(without, FACT).data["entropy"], atol=0.1)


@pytest.mark.parametrize("hooked", [False, True], ids=["resumed", "whole"])
@pytest.mark.parametrize("cells", [1, 2, 5])
def test_few_logits_are_held_at_once_and_change_no_value(
    cells: int, hooked: bool, tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hooked:
        tiny_model.add_perma_hook("blocks.0.hook_mlp_out", lambda state, hook: state)
    wanted = logit_lens(tiny_model, FACT, states=STATES).data
    sizes: list[int] = []
    name = "resume" if not hooked else "logits"
    original = getattr(lens_states, name)

    def measured(*args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = original(*args, **kwargs)
        sizes.append(found.shape[0] * found.shape[1])
        return found

    monkeypatch.setattr(lens_states, name, measured)
    memory = cells * 4 * lens_states.COPIES * tiny_model.cfg.d_vocab
    monkeypatch.setattr(lens_states, "default_memory", lambda model: memory)
    found = logit_lens(tiny_model, FACT, states=STATES).data
    assert max(sizes) <= max(1, cells // 2)
    for name in NUMBERS:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, err_msg=name)


def test_a_text_is_asked_for_the_models_own_top_token(tiny_model: HookedTransformer) -> None:
    lens = logit_lens(tiny_model, "Miles Davis plays the")
    assert float(lens.data["answer_rank"][-1, -1]) == 0
    assert lens.settings["answer_source"] == "predicted"
    assert lens.settings["answer"] == lens.data["top_token"].values[-1, -1, 0]
    given = logit_lens(tiny_model, "Miles Davis plays the", answer=" guitar too")
    assert given.settings["answer"] == " guitar too"
    assert float(given.data["answer_rank"][-1, -1]) > 0


def test_a_lens_says_where_it_comes_from_and_can_be_written(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    import xarray as xr

    lens = logit_lens(tiny_model, FACT, states=("mlp", "resid"), top=2)
    assert lens.provenance["fingerprint"] == fingerprint(tiny_model)
    assert lens.settings["states"] == ["mlp", "resid"]
    assert lens.settings["fact"] == FACT.to_dict()
    lens.data.to_netcdf(tmp_path / "lens.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "lens.nc", engine="h5netcdf")
    assert json.loads(again.attrs["provenance"]) == lens.provenance
    xr.testing.assert_equal(LogitLens(again).data["kl"], lens.data["kl"])


def test_a_trained_model_decides_on_a_fact_below_its_last_layer(organism: HookedTransformer) -> None:
    fact = organisms.requests("organism-m", n=1, seed=0, invented=False)[0].fact
    cells = logit_lens(organism, fact).data.isel(token=-1)
    assert float(cells["answer_prob"].sel(layer=-1)) < 0.01
    assert (cells["answer_rank"].isel(layer=slice(-4, None)) == 0).all()
    assert float(cells["answer_prob"].isel(layer=-1)) > 0.9
    assert float(cells["kl"].sel(layer=-1)) > float(cells["kl"].isel(layer=-2))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompt": 3}, InputError, "prompt: expected a Fact or a text, got int"),
        ({"prompt": " "}, TextError, "prompt: expected text"),
        ({"states": "key"}, InputError, "states: expected one or more different ones of resid, mlp, attn"),
        ({"states": ()}, InputError, "states: expected one or more"),
        ({"states": ("mlp", "mlp")}, InputError, "states: expected one or more different"),
        ({"top": 0}, RangeError, "top: expected a whole number of 1 or more, got 0"),
        ({"top": 401}, RangeError, "top: expected at most 400, the model's tokens, got 401"),
        ({"answer": "  "}, TextError, "answer: expected the continuation"),
        ({"answer": 3}, InputError, "answer: expected a continuation, 'predicted' or None, got int"),
    ],
)
def test_bad_input_is_refused(
    given: dict[str, Any], error: type[Exception], message: str, tiny_model: HookedTransformer
) -> None:
    with pytest.raises(error, match=message):
        logit_lens(tiny_model, **{"prompt": FACT, **given})


def test_states_that_give_no_finite_logits_are_refused(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.unembed.W_U[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        logit_lens(tiny_model, FACT)
