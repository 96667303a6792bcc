"""MEMIT and EMMET: against the textbook loop, their identities with ROME and each other, and the organism."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

import mechstyle as ms
from mechstyle.editing.application import active_edits
from mechstyle.editing.batch_methods import MEMIT_OPTIONS, emmet, memit
from mechstyle.editing.covariance import Covariance, covariance
from mechstyle.editing.edit import EditSet, load_edit
from mechstyle.editing.keys import memit_contexts, sample_contexts, subject_keys, subject_states
from mechstyle.editing.methods import rome
from mechstyle.editing.targets import TargetOptions, optimise_targets
from mechstyle.editing.writing import SharedKeyWarning
from mechstyle.errors import WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint, load_model
from mechstyle.sites import Site
from tests.checkpoints import random_hf
from tests.oracles.memit_loop import memit_loop

REQUESTS = (
    EditRequest(Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar"),
    EditRequest(Fact("{} is the capital of", "Rome", " Italy"), " France"),
    EditRequest(Fact("The mother tongue of {} is", "Danielle Darrieux", " French"), " the day"),
)
CONTEXTS = ("{}", "The day was long. {}", "He was born in London. {}")
OPTIONS = TargetOptions(steps=5, clamp_norm=0.75, early_stop=0.0)
LAYERS = [0, 1]


@pytest.fixture(scope="module")
def double_model(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def moments(double_model: HookedTransformer) -> Covariance:
    words = ("Miles Davis", "Paris", "the day", "London", "French", "capital", "was born in", "guitar")
    texts = [f"{a} {b} of {c}. {b} and {a}" for a in words for b in words for c in words]
    return covariance(double_model, texts, layers=LAYERS, n_keys=2000)


def settings_of(edit: EditSet) -> dict[str, Any]:
    found: dict[str, Any] = edit.provenance["settings"]
    return found


def deltas(edit: EditSet) -> list[Tensor]:
    return [edit.delta(name) for name in edit.parameters]


def close(one: EditSet, other: EditSet, rtol: float = 1e-9) -> None:
    assert one.parameters == other.parameters
    for a, b in zip(deltas(one), deltas(other), strict=True):
        assert (a - b).norm() <= rtol * b.norm()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(("method", "ridge"), [(memit, 2.0), (memit, None), (emmet, 0.0)])
def test_an_edit_is_the_textbook_loop_given_its_targets(
    double_model: HookedTransformer,
    moments: Covariance,
    method: Callable[..., EditSet],
    ridge: float | None,
    legacy: bool,
    bos: bool,
) -> None:
    edit = method(
        double_model,
        REQUESTS,
        layers=LAYERS,
        covariance=dict(moments),
        contexts=CONTEXTS,
        target_options=OPTIONS,
        legacy=legacy,
        prepend_bos=bos,
        **{"mom2_weight" if method is memit else "ridge": ridge},
    )
    targets = optimise_targets(
        double_model,
        REQUESTS,
        layer=LAYERS[-1],
        contexts=CONTEXTS,
        options=OPTIONS,
        prepend_bos=bos,
        kind="resid",
    )
    changes, missing = memit_loop(
        copy.deepcopy(double_model),
        facts=[(request.fact.template, request.fact.subject) for request in REQUESTS],
        wanted=torch.stack([target.output + target.delta for target in targets]),
        contexts=list(CONTEXTS),
        covariances=dict(moments),
        layers=LAYERS,
        ridge=double_model.cfg.d_mlp if ridge is None else ridge,
        mean_of_means=legacy,
        bos=bos,
    )
    for layer in LAYERS:
        error = edit.delta(f"blocks.{layer}.mlp.W_out") - changes[layer]
        assert error.norm() < 1e-7 * changes[layer].norm()  # the loop inverts; C is badly conditioned
    assert settings_of(edit)["missing"] == pytest.approx(missing, rel=1e-7)
    assert settings_of(edit)["missing"][0] == pytest.approx(
        sum(float(target.delta.norm()) for target in targets) / len(targets), rel=1e-9
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_emmet_of_one_request_and_one_layer_is_the_closed_form_of_rome(
    double_model: HookedTransformer, moments: Covariance, layer: int
) -> None:
    request = REQUESTS[0]
    edit = emmet(
        double_model,
        request,
        layers=layer,
        covariance=moments,
        contexts=CONTEXTS,
        target_options=OPTIONS,
    )
    (target,) = optimise_targets(
        double_model, [request], layer=layer, contexts=CONTEXTS, options=OPTIONS, kind="resid"
    )
    key = subject_keys(double_model, request.fact, layer=layer, contexts=CONTEXTS).mean(0)
    direction = torch.linalg.solve(moments[layer], key)
    textbook = torch.outer(direction, target.delta) / (key @ direction)
    (found,) = deltas(edit)
    assert (found - textbook).norm() < 1e-8 * textbook.norm()


def test_emmet_is_rome_itself_where_the_search_does_not_look_at_the_old_value(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    """Weight decay and clamp are relative to the state that delta is added to, which is another one."""
    options = TargetOptions(steps=8, weight_decay=0.0, clamp_norm=1e6, early_stop=0.0)
    shared: dict[str, Any] = {"covariance": moments, "contexts": CONTEXTS, "target_options": options}
    one = emmet(double_model, REQUESTS[0], layers=[1], **shared)
    other = rome(double_model, REQUESTS[0], layer=1, **shared)
    assert settings_of(one)["losses"][0] == pytest.approx(settings_of(other)["losses"], rel=1e-9)
    close(one, other, rtol=1e-7)


@pytest.mark.parametrize("ridge", [1e-3, 5.0])
def test_memit_is_emmet_with_a_ridge(
    double_model: HookedTransformer, moments: Covariance, ridge: float
) -> None:
    shared: dict[str, Any] = {"covariance": moments, "contexts": CONTEXTS, "target_options": OPTIONS}
    one = memit(double_model, REQUESTS, layers=LAYERS, mom2_weight=ridge, **shared)
    other = emmet(double_model, REQUESTS, layers=LAYERS, ridge=ridge, **shared)
    close(one, other, rtol=0.0)
    assert settings_of(one) == {**settings_of(other), "method": "memit"}


def test_memit_becomes_emmet_as_its_ridge_goes_to_zero(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    shared: dict[str, Any] = {"covariance": moments, "contexts": CONTEXTS, "target_options": OPTIONS}
    exact = emmet(double_model, REQUESTS, layers=LAYERS, **shared)
    distances = []
    for ridge in (1.0, 1e-2, 1e-4, 1e-6):
        edit = memit(double_model, REQUESTS, layers=LAYERS, mom2_weight=ridge, **shared)
        pairs = zip(deltas(edit), deltas(exact), strict=True)
        distances.append(max(float((a - b).norm() / b.norm()) for a, b in pairs))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-5
    assert distances[0] > 1e-3


def test_after_emmet_in_one_layer_every_mean_key_gives_exactly_what_was_wanted(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    edit = emmet(
        double_model, REQUESTS, layers=1, covariance=moments, contexts=CONTEXTS, target_options=OPTIONS
    )
    targets = optimise_targets(
        double_model, REQUESTS, layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid"
    )
    facts, mlp = [request.fact for request in REQUESTS], double_model.blocks[1].mlp
    with edit.applied(double_model), torch.no_grad():
        keys = subject_states(double_model, facts, Site(1, "key"), contexts=CONTEXTS).mean(1)
        after = keys @ mlp.W_out + mlp.b_out
    before = (keys @ mlp.W_out + mlp.b_out).detach()
    wanted = before + torch.stack([target.delta for target in targets])
    torch.testing.assert_close(after, wanted, rtol=1e-9, atol=1e-9)


def test_on_bare_prompts_emmet_reaches_every_target_whatever_the_spread(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    edit = emmet(
        double_model, REQUESTS, layers=LAYERS, covariance=moments, contexts=("{}",), target_options=OPTIONS
    )
    targets = optimise_targets(double_model, REQUESTS, layer=1, options=OPTIONS, kind="resid")
    with edit.applied(double_model):
        reached = subject_states(double_model, [one.fact for one in REQUESTS], Site(1, "resid"))[:, 0]
    wanted = torch.stack([target.output + target.delta for target in targets])
    torch.testing.assert_close(reached, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [memit, emmet])
def test_neither_the_order_of_requests_nor_that_of_layers_matters(
    double_model: HookedTransformer, moments: Covariance, method: Callable[..., EditSet]
) -> None:
    shared: dict[str, Any] = {"covariance": moments, "contexts": CONTEXTS, "target_options": OPTIONS}
    one = method(double_model, REQUESTS, layers=[0, 1], **shared)
    other = method(double_model, REQUESTS[::-1], layers=[1, 0], **shared)
    assert one.requests == REQUESTS == other.requests[::-1]
    close(one, other, rtol=1e-7)


def test_requests_that_share_a_key_are_one_to_emmet_and_weigh_twice_in_memit(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    shared: dict[str, Any] = {"covariance": moments, "contexts": CONTEXTS, "target_options": OPTIONS}
    fact = REQUESTS[1].fact
    alike = [
        EditRequest(Fact(f"{{}} is the {word} of", fact.subject, " Italy"), " France") for word in "abcd"
    ]
    (target,) = optimise_targets(
        double_model, REQUESTS[1:2], layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid"
    )
    once = emmet(double_model, REQUESTS[1], layers=1, targets=[target], **shared)
    four = emmet(double_model, alike, layers=1, targets=[target] * 4, **shared)
    close(four, once, rtol=1e-7)
    assert (settings_of(four)["keys"], len(four.requests)) == (1, 4)
    assert settings_of(four)["jitter"] == settings_of(four)["gram_jitter"] == [0.0]
    # (ridge C + n kᵀk)⁻¹ n kᵀδ = (ridge/n C + kᵀk)⁻¹ kᵀδ
    heavy = memit(double_model, alike, layers=1, mom2_weight=8.0, targets=[target] * 4, **shared)
    light = memit(double_model, REQUESTS[1], layers=1, mom2_weight=2.0, targets=[target], **shared)
    close(heavy, light, rtol=1e-7)


def test_requests_that_share_a_key_and_want_different_things_are_told(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    fact = Fact("{} is a city in", "Rome", " Italy")
    shared: dict[str, Any] = {"covariance": moments, "contexts": CONTEXTS, "target_options": OPTIONS}
    with pytest.warns(SharedKeyWarning, match=r"first requests\[1\] and requests\[3\]: the MLP sees one key"):
        emmet(double_model, [*REQUESTS, EditRequest(fact, " Spain")], layers=1, **shared)
    emmet(double_model, [*REQUESTS, EditRequest(fact, " Spain")], layers=1, batch_size=2, **shared)


def test_contexts_are_sampled_by_seed_and_as_published_only_when_legacy(
    tiny_model: HookedTransformer, moments: Covariance
) -> None:
    def settings(**changes: Any) -> dict[str, Any]:
        options = TargetOptions(steps=1)
        edit = memit(tiny_model, REQUESTS[0], layers=0, covariance=moments, target_options=options, **changes)
        return settings_of(edit)

    assert settings(seed=3)["contexts"] == list(sample_contexts(tiny_model, 3))
    published = settings(seed=3, legacy=True)
    assert published["contexts"] == list(memit_contexts(tiny_model, 3))
    assert published["context_weights"] == [0.5] + [0.1] * 5
    alone = settings(legacy=True, contexts=("{}",))
    assert alone["context_weights"] == [1.0]


def test_the_published_target_search_is_the_default(
    tiny_model: HookedTransformer, moments: Covariance
) -> None:
    edit = memit(tiny_model, REQUESTS[0], layers=[0], covariance=moments, contexts=("{}",))
    assert settings_of(edit)["target_options"]["steps"] == MEMIT_OPTIONS.steps == 25
    assert settings_of(edit)["target_options"]["clamp_norm"] == 0.75
    assert settings_of(edit)["ridge"] == tiny_model.cfg.d_mlp


@pytest.mark.parametrize("method", [memit, emmet])
def test_an_edit_is_deterministic_and_survives_saving(
    tiny_model: HookedTransformer, moments: Covariance, tmp_path: Path, method: Callable[..., EditSet]
) -> None:
    shared: dict[str, Any] = {"covariance": moments, "target_options": TargetOptions(steps=2)}
    edit, again, other = (
        method(tiny_model, REQUESTS, layers=LAYERS, seed=seed, **shared) for seed in (0, 0, 1)
    )
    loaded = load_edit(edit.save(tmp_path / "edit.safetensors"))
    for name in ("blocks.0.mlp.W_out", "blocks.1.mlp.W_out"):
        assert torch.equal(edit.delta(name), again.delta(name))
        assert torch.equal(edit.delta(name), loaded.delta(name))
        assert not torch.equal(edit.delta(name), other.delta(name))
    assert loaded.requests == REQUESTS
    assert loaded.fingerprint == fingerprint(tiny_model)
    assert json.loads(json.dumps(loaded.provenance)) == edit.provenance
    settings = settings_of(loaded)
    assert (settings["method"], settings["layers"], settings["keys"]) == (method.__name__, LAYERS, 3)
    assert len(settings["losses"]) == len(settings["answer_nll"]) == len(REQUESTS)
    assert settings["covariance"]["settings"]["count"] == 2000
    assert [edit.edits[i].left.shape[1] for i in (0, 1)] == [3, 3]


def test_an_edit_on_top_of_an_active_one_leaves_it_and_undoes_to_the_same_bits(
    tiny_model: HookedTransformer, moments: Covariance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {
        "layers": LAYERS,
        "covariance": moments,
        "contexts": ("{}",),
        "target_options": TargetOptions(steps=3),
    }
    original = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    first = memit(tiny_model, REQUESTS[0], **shared)
    with first.applied(tiny_model) as handle:
        edited = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
        second = memit(tiny_model, REQUESTS[1:], **shared)
        assert active_edits(tiny_model) == (handle,)
        assert all(torch.equal(weight, edited[name]) for name, weight in tiny_model.named_parameters())
        with second.applied(tiny_model):
            assert not torch.equal(tiny_model.blocks[0].mlp.W_out, edited["blocks.0.mlp.W_out"])
        assert all(torch.equal(weight, edited[name]) for name, weight in tiny_model.named_parameters())

        def fail(*_: Any, **__: Any) -> None:
            raise WorkError("target: the loss became nan at step 0")

        monkeypatch.setattr("mechstyle.editing.writing.search_targets", fail)
        with pytest.raises(WorkError, match="became nan"):
            memit(tiny_model, REQUESTS[1:], **shared)
        assert active_edits(tiny_model) == (handle,)
    assert second.fingerprint == first.fingerprint
    assert not active_edits(tiny_model)
    assert all(torch.equal(weight, original[name]) for name, weight in tiny_model.named_parameters())


@pytest.mark.parametrize("kind", ["gpt2", "llama-gqa"])
def test_a_bridge_gets_the_same_edit_and_keeps_its_weights(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str
) -> None:
    random_hf(kind, len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    bridge, hooked = TransformerBridge.boot_transformers(str(tmp_path), device="cpu"), load_model(tmp_path)
    before = {name: weight.detach().clone() for name, weight in bridge.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(400, hooked.cfg.d_mlp, generator=generator, dtype=torch.float64)
    shared: dict[str, Any] = {
        "layers": LAYERS,
        "covariance": dict.fromkeys(LAYERS, keys.T @ keys / len(keys)),
        "contexts": CONTEXTS,
        "target_options": OPTIONS,
        "prepend_bos": False,
    }
    close(memit(bridge, REQUESTS, **shared), memit(hooked, REQUESTS, **shared), rtol=1e-3)
    assert not active_edits(bridge)
    assert all(torch.equal(weight, before[name]) for name, weight in bridge.named_parameters())


@pytest.fixture(scope="module")
def organism_moments(organism: HookedTransformer) -> Covariance:
    return covariance(organism, ms.organisms.texts("organism-m", n=250), layers=[0, 1, 2], n_keys=8_000)


@pytest.mark.parametrize(
    ("method", "floors"),
    [
        (ms.memit, {"efficacy": 0.8, "paraphrase": 0.6, "neighborhood": 0.8}),
        (ms.emmet, {"efficacy": 0.9, "paraphrase": 0.8, "neighborhood": 0.8}),
    ],
    ids=["memit", "emmet"],
)
def test_ten_facts_are_written_into_the_organism_in_one_call(
    organism: HookedTransformer,
    organism_moments: Covariance,
    method: Callable[..., EditSet],
    floors: dict[str, float],
) -> None:
    requests = ms.organisms.requests("organism-m", n=10, seed=21)
    before = {name: weight.detach().clone() for name, weight in organism.named_parameters()}
    contexts = sample_contexts(organism, 0, lengths=((5, 4),))
    edit = method(organism, requests, layers=[0, 1, 2], covariance=organism_moments, contexts=contexts)
    scores = ms.evaluate(organism, requests, edits=edit)
    assert scores.summary(stage="before")["value"]["efficacy"] == 0.0
    after = scores.summary()["value"]
    # Ten facts are few: floors that a broken method does not reach, not rates.
    assert all(after[name] >= floor for name, floor in floors.items())
    first, second, third = settings_of(edit)["missing"]
    assert first > second > third > 0
    assert all(torch.equal(weight, before[name]) for name, weight in organism.named_parameters())
