"""Activation patching between two prompts: known answers, and every cell by one plain run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.models import load_model
from mechstyle.tokens import encode
from mechstyle.tracing import Trace
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.patching import activation_patching, normalized_effect
from mechstyle.tracing.path_ends import Receiver
from mechstyle.tracing.path_patching import path_patching
from mechstyle.tracing.targets import Contrast
from tests.conftest import RandomGPT2
from tests.oracles import cell_loop

Models = Callable[..., HookedTransformer]
CLEAN, CORRUPTED = "The instrument of Miles Davis is the", "The instrument of Bill Evans is the"
N_PROMPT, FIRST = 7, 3
ALL = {"all": list(range(N_PROMPT))}


def patched(model: Any, kinds: tuple[str, ...] = ("resid",), **options: Any) -> Trace:
    clean, corrupted = options.pop("clean", CLEAN), options.pop("corrupted", CORRUPTED)
    settings = {"answer": " trumpet", "window": 1, "prepend_bos": False, **options}
    return activation_patching(model, clean, corrupted, kinds=kinds, **settings)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("kind", ["heads", "k", "pattern"])
def test_every_cell_is_one_plain_run(architectures: Models, kind: str, direction: str) -> None:
    model = architectures("llama-gqa")
    sides = [
        cell_loop.Prompt(encode(model, text, target=" trumpet too", prepend_bos=False).ids.tolist())
        for text in (CLEAN, CORRUPTED)
    ]
    source, base = sides if direction == "denoising" else sides[::-1]
    states, own = (cell_loop.states(model, side) for side in (source, base))
    trace = patched(model, (kind,), direction=direction, answer=" trumpet too")
    grid = trace.data[kind].values[0]
    baseline = trace.clean if direction == "noising" else trace.corrupted.item()
    assert (grid[:FIRST] == baseline).all()
    for token, layer, *index in np.ndindex(grid[FIRST:].shape):
        wanted = cell_loop.cell(
            model, states, base, own, kind=kind, tokens=[token + FIRST], layer=layer,
            index=index[0] if index else None, n_prompt=N_PROMPT,
        )  # fmt: skip
        assert grid[(token + FIRST, layer, *index)] == pytest.approx(wanted, abs=1e-9)
    assert np.ptp(grid) > 1e-6


@pytest.mark.parametrize("engine", ["resume", "whole"])
def test_the_whole_residual_stream_of_one_layer_is_the_whole_difference(
    architectures: Models, engine: str
) -> None:
    for direction in ("denoising", "noising"):
        trace = patched(architectures("gptj"), tokens=ALL, direction=direction, engine=engine)
        end = trace.clean if direction == "denoising" else trace.corrupted.item()
        np.testing.assert_allclose(trace.data["resid"].values, end, atol=1e-9)
        np.testing.assert_allclose(normalized_effect(trace, "resid").values, 1)
        assert abs(trace.total_effect()) > 0.05


def test_only_the_last_token_counts_after_the_last_layer(architectures: Models) -> None:
    share = normalized_effect(patched(architectures("qwen2")), "resid").values[:, -1]
    np.testing.assert_allclose(share, [0] * (N_PROMPT - 1) + [1], atol=1e-9)


def test_noising_is_denoising_with_the_prompts_swapped(architectures: Models) -> None:
    model, kinds = architectures("phi"), ("resid", "heads", "v")
    noising = patched(model, kinds, direction="noising")
    swapped = patched(model, kinds, clean=CORRUPTED, corrupted=CLEAN)
    for kind in kinds:
        np.testing.assert_allclose(noising.data[kind].values, swapped.data[kind].values, atol=1e-12)
        np.testing.assert_allclose(
            *(normalized_effect(one, kind).values for one in (noising, swapped)), atol=1e-12
        )
    np.testing.assert_allclose(
        [noising.clean, noising.corrupted.item()], [swapped.corrupted.item(), swapped.clean], atol=1e-12
    )


def test_where_there_is_one_head_it_is_all_of_attention(random_gpt2: RandomGPT2, tiny_tokenizer: Any) -> None:
    hf = random_gpt2(len(tiny_tokenizer), n_head=1)
    model = load_model(hf, tokenizer=tiny_tokenizer, dtype=torch.float64)
    trace = patched(model, ("heads", "attn"), tokens={**ALL, "last": "last prompt token", "two": [3, 5]})
    np.testing.assert_allclose(trace.data["heads"].values[..., 0], trace.data["attn"].values, atol=1e-9)
    assert np.ptp(trace.data["attn"].values) > 1e-3


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_patched_part_is_a_path_to_the_residual_stream_after_it(architectures: Models, layer: int) -> None:
    model, kinds = architectures("llama-gqa"), ("heads", "mlp")
    sets = {"all": list(range(FIRST, N_PROMPT)), "one": [4]}
    paths = path_patching(
        model, CLEAN, CORRUPTED, answer=" trumpet", receivers=[Receiver(layer, "resid")], tokens=sets,
        prepend_bos=False,
    )  # fmt: skip
    trace = patched(model, kinds, tokens=sets)
    for kind in kinds:
        np.testing.assert_allclose(paths.data[kind][:, :, layer], trace.data[kind][:, :, layer], atol=1e-9)


def test_the_first_token_attends_to_itself_whatever_its_query(architectures: Models) -> None:
    trace = patched(architectures("gptj"), ("q", "pattern", "k"), corrupted=CLEAN.replace("The", "Paris", 1))
    for kind, moves in (("q", False), ("pattern", False), ("k", True)):
        effect = np.abs(trace.indirect_effect(kind).values)
        assert (effect[0].max() > 1e-6) == moves
        assert effect[1:].max() > 1e-6


def test_a_contrast_of_tokens_is_the_logit_difference(architectures: Models) -> None:
    model = architectures("gpt2")
    trace = patched(model, answer=Contrast(" trumpet", " guitar"))
    ids = [encode(model, text, prepend_bos=False).ids.tolist() for text in (CLEAN, CORRUPTED)]
    tokens = [
        int(encode(model, CLEAN, target=word, prepend_bos=False).ids[-1]) for word in (" trumpet", " guitar")
    ]
    wanted = []
    for row in ids:
        logits = cell_loop.logits(model, cell_loop.Prompt(row))[-1]
        wanted.append(float(logits[tokens[0]] - logits[tokens[1]]))
    np.testing.assert_allclose([trace.clean, trace.corrupted.item()], wanted, atol=1e-9)


def test_shares_of_a_difference_that_is_none_are_refused(architectures: Models) -> None:
    trace = patched(architectures("gpt2"), metric=lambda logits: logits[:, 0, 0] * 1e-3)
    with pytest.raises(
        InputError, match="trace: its clean and corrupted runs differ by .*, less than 0.01, so"
    ):
        normalized_effect(trace, "resid")
    total = float(trace.total_effect())
    share = normalized_effect(trace, "resid", least=abs(total) / 2)
    np.testing.assert_allclose(share, trace.indirect_effect("resid") / total)
    with pytest.raises(RangeError, match="least: expected a number above 0, got 0"):
        normalized_effect(trace, "resid", least=0)
    with pytest.raises(InputError, match="kind: expected one of resid, got 'mlp'"):
        normalized_effect(trace, "mlp")


def test_over_draws_a_share_is_the_mean_effect_over_the_mean_difference(architectures: Models) -> None:
    model, fact = architectures("gpt2"), Fact("The instrument of {} is the", "Miles Davis", " trumpet")
    draws = (
        torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 1, 0.0])[:, None, None]
    )
    trace = causal_trace(model, fact, kinds=("resid",), noise=draws, metric="logprob", prepend_bos=False)
    share = normalized_effect(trace, "resid")
    np.testing.assert_allclose(share, trace.indirect_effect("resid") / trace.total_effect())
    each = normalized_effect(trace, "resid", reduce=None, least=1e-9)
    assert np.isnan(each[2]).all()  # a draw that changes nothing
    total = trace.total_effect(reduce=None)
    np.testing.assert_allclose(each[:2], (trace.indirect_effect("resid", reduce=None) / total)[:2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": ()}, InputError, "kinds: expected one or more different ones of resid, mlp"),
        ({"kinds": ("z",)}, InputError, r"kinds: expected .*, got \('z',\)"),
        ({"kinds": ("neurons",)}, InputError, "neuron_layer: expected the layer whose neurons are wanted"),
        ({"direction": "up"}, InputError, "direction: expected 'denoising' or 'noising', got 'up'"),
        ({"window": 0}, RangeError, "window: expected a whole number of at least 1, got 0"),
        ({"answer": None}, TextError, "answer: expected the continuation to score"),
        ({"corrupted": "The instrument of Evans is the"}, TextError, "corrupted: expected 7 tokens, as many"),
        ({"corrupted": CLEAN}, TextError, "corrupted: expected another prompt than the clean one"),
        ({"corrupted": 3}, InputError, "corrupted: expected a prompt or a Fact, got int"),
    ],
)
def test_bad_input_is_named(
    architectures: Models, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    kinds = options.pop("kinds", ("resid",))
    with pytest.raises(error, match=message):
        patched(architectures("gpt2"), kinds, **options)
