"""A residual spread over layers: the textbook loop on four architectures, its theorems, and what stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.editing import layer_solves, spread, subject_rows
from mechstyle.editing.application import active_edits, apply_edits
from mechstyle.editing.keys import subject_states
from mechstyle.editing.layer_solves import ClosedForm
from mechstyle.editing.spread import LayerWrite, shared_keys, write_in_layers
from mechstyle.editing.subject_rows import SubjectRows
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError, WorkError
from mechstyle.facts import Fact
from mechstyle.models import load_model
from mechstyle.sites import Site
from mechstyle.solve import closed_form_update
from tests.checkpoints import random_hf
from tests.oracles.memit_loop import memit_loop

FACTS = (
    Fact("The instrument of {} is the", "Miles Davis", " trumpet"),
    Fact("{} is the capital of", "Rome", " Italy"),
    Fact("The mother tongue of {} is", "Danielle Darrieux", " French"),
)
CONTEXTS = ("{}", "The day was long. {}", "He was born in London. {}")
FLAT = (1 / 3, 1 / 3, 1 / 3)
ARCHITECTURES = ("gpt2", "gptj", "neox", "llama-gqa")


@pytest.fixture(scope="module")
def models(tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, HookedTransformer]:
    return {
        kind: load_model(random_hf(kind, len(tiny_tokenizer)), tokenizer=tiny_tokenizer, dtype=torch.float64)
        for kind in ARCHITECTURES
    }


@pytest.fixture
def model(models: dict[str, HookedTransformer]) -> HookedTransformer:
    return models["gpt2"]


def moments_of(model: HookedTransformer) -> dict[int, Tensor]:
    """Well-conditioned second moments, another one for each layer."""
    generator = torch.Generator().manual_seed(5)
    width = model.cfg.d_mlp
    found = {}
    for layer in range(model.cfg.n_layers):
        keys = torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
        found[layer] = keys.T @ keys / len(keys)
    return found


def wanted_of(
    model: HookedTransformer, layer: int, facts: tuple[Fact, ...] = FACTS, size: float = 1.0
) -> Tensor:
    """The present states plus random changes."""
    now = subject_states(model, facts, Site(layer, "resid"))[:, 0].double()
    return now + size * torch.randn(
        now.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )


def spread_over(model: HookedTransformer, layers: list[int], **changes: Any) -> list[LayerWrite]:
    settings: dict[str, Any] = {
        "facts": FACTS,
        "moments": moments_of(model),
        "ridge": 1.0,
        "contexts": CONTEXTS,
        "weights": FLAT,
        "prepend_bos": False,
        **changes,
    }
    wanted = settings.pop("wanted", None)
    facts = settings.pop("facts")
    wanted = wanted_of(model, layers[-1], facts) if wanted is None else wanted
    now = subject_states(model, facts, Site(layers[-1], "resid"))[:, 0].double()
    solve = ClosedForm(settings.pop("moments"), settings.pop("ridge"))
    phrased = [[fact] for fact in facts]
    return write_in_layers(model, phrased, wanted - now, layers=layers, solve=solve, **settings)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["fp64", "fp32"]
)
@pytest.mark.parametrize("ridge", [0.0, 3.0])
@pytest.mark.parametrize("legacy", [False, True], ids=["flat", "mean of means"])
def test_a_spread_is_the_textbook_loop_on_every_architecture(
    models: dict[str, HookedTransformer],
    kind: str,
    dtype: torch.dtype,
    tolerance: float,
    ridge: float,
    legacy: bool,
) -> None:
    model = copy.deepcopy(models[kind]).to(dtype)
    layers, moments, wanted = [0, 1, 2], moments_of(model), wanted_of(model, 2)
    writes = spread_over(
        model, layers, ridge=ridge, wanted=wanted, weights=(0.5, 0.25, 0.25) if legacy else FLAT
    )
    changes, missing = memit_loop(
        model,
        facts=[(fact.template, fact.subject) for fact in FACTS],
        wanted=wanted,
        contexts=list(CONTEXTS),
        covariances=moments,
        layers=layers,
        ridge=ridge,
        mean_of_means=legacy,
    )
    for layer, write in zip(layers, writes, strict=True):
        assert write.edit.parameter == f"blocks.{layer}.mlp.W_out"
        error = (write.edit.delta() - changes[layer]).norm() / changes[layer].norm()
        assert error < tolerance
    assert [write.missing for write in writes] == pytest.approx(missing, rel=tolerance)
    assert [write.keys for write in writes] == [3, 3, 3]


@pytest.mark.parametrize("layer", [0, 2])
def test_a_spread_over_one_layer_is_the_plain_closed_form(model: HookedTransformer, layer: int) -> None:
    wanted = wanted_of(model, layer)
    (write,) = spread_over(model, [layer], wanted=wanted)
    keys = subject_states(model, FACTS, Site(layer, "key"), contexts=CONTEXTS).mean(1)
    residual = wanted - subject_states(model, FACTS, Site(layer, "resid"))[:, 0]
    plain = closed_form_update(keys, residual, moments_of(model)[layer], 1.0)
    torch.testing.assert_close(write.edit.delta(), plain.dense(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [[0], [0, 1], [0, 1, 2]])
def test_without_a_ridge_the_last_layer_writes_all_that_is_missing(
    model: HookedTransformer, layers: list[int]
) -> None:
    wanted = wanted_of(model, layers[-1])
    writes = spread_over(model, layers, ridge=0.0, contexts=("{}",), weights=(1.0,), wanted=wanted)
    handle = apply_edits(model, [write.edit for write in writes])
    reached = subject_states(model, FACTS, Site(layers[-1], "resid"))[:, 0]
    handle.undo()
    torch.testing.assert_close(reached, wanted, rtol=1e-9, atol=1e-9)


def test_what_is_missing_is_measured_with_the_layers_below_written(model: HookedTransformer) -> None:
    wanted = wanted_of(model, 2, size=0.01)
    first, second, third = spread_over(
        model, [0, 1, 2], ridge=0.0, contexts=("{}",), weights=(1.0,), wanted=wanted
    )
    present = [subject_states(model, FACTS, Site(2, "resid"))[:, 0]]
    for applied in ([first.edit], [first.edit, second.edit]):
        handle = apply_edits(model, applied)
        present.append(subject_states(model, FACTS, Site(2, "resid"))[:, 0])
        handle.undo()
    norms = [float((wanted - now).norm(dim=-1).mean()) for now in present]
    assert [first.missing, second.missing, third.missing] == pytest.approx(norms, rel=1e-9)


def test_after_an_exact_write_every_mean_key_gives_its_wanted_output(model: HookedTransformer) -> None:
    wanted = wanted_of(model, 1)
    (write,) = spread_over(model, [1], ridge=0.0, wanted=wanted)
    keys = subject_states(model, FACTS, Site(1, "key"), contexts=CONTEXTS).mean(1)
    mlp, residual = model.blocks[1].mlp, wanted - subject_states(model, FACTS, Site(1, "resid"))[:, 0]
    before = (keys @ mlp.W_out + mlp.b_out).detach()
    handle = apply_edits(model, [write.edit])
    after = (keys @ mlp.W_out + mlp.b_out).detach()
    handle.undo()
    torch.testing.assert_close(after, before + residual, rtol=1e-9, atol=1e-10)
    assert (after - before).norm() > 1.0


def test_a_larger_ridge_writes_less_down_to_nothing(model: HookedTransformer) -> None:
    sizes = [
        float(spread_over(model, [0, 1], ridge=ridge)[0].edit.delta().norm())
        for ridge in (0.0, 1.0, 100.0, 1e12)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-9 * sizes[0]


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_the_order_of_facts_does_not_matter(model: HookedTransformer, ridge: float) -> None:
    wanted, backwards = wanted_of(model, 2), [2, 1, 0]
    one = spread_over(model, [0, 2], ridge=ridge, wanted=wanted)
    other = spread_over(
        model, [0, 2], ridge=ridge, wanted=wanted[backwards], facts=tuple(FACTS[i] for i in backwards)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.edit.delta(), b.edit.delta(), rtol=1e-8, atol=1e-11)


SAME_KEY = (Fact("{} is the capital of", "Rome", " Italy"), Fact("{} is a city in", "Rome", " Italy"))


def test_neither_order_nor_multiples_of_phrasings_make_another_key(model: HookedTransformer) -> None:
    miles, trumpet = (Fact(f"{{}} {word}", name, " a") for word, name in (("is", "Miles"), ("plays", "Rome")))
    was, has = (Fact(f"{{}} {word}", "Miles", " a") for word in ("was", "has"))
    assert shared_keys(model, [[miles], [was, has]]).tolist() == [0, 0]
    assert shared_keys(model, [[miles, trumpet], [trumpet, was]]).tolist() == [0, 0]
    assert shared_keys(model, [[miles, trumpet], [miles, was, trumpet]]).tolist() == [0, 1]


def test_a_key_that_several_phrasings_share_is_not_written_twice(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SubjectRows.mean_keys

    def rounded(rows: SubjectRows) -> Tensor:
        keys = real(rows)
        return keys * (1 + 1e-7 * torch.arange(len(keys), dtype=keys.dtype)[:, None])

    was, has = (Fact(f"{{}} {word}", "Rome", " a") for word in ("was", "has"))
    monkeypatch.setattr(SubjectRows, "mean_keys", rounded)
    deltas = torch.stack([torch.ones(32), -torch.ones(32)]).double()
    (write,) = write_in_layers(
        model, [[SAME_KEY[0]], [was, has]], deltas, layers=[1], solve=ClosedForm(moments_of(model), 0.0),
        contexts=CONTEXTS, weights=FLAT, prepend_bos=False,
    )  # fmt: skip
    assert write.keys == 1
    assert write.edit.delta().norm() < 1e-6  # they want opposite things of one key


def test_facts_share_a_key_when_their_prompts_begin_alike_up_to_the_subject(model: HookedTransformer) -> None:
    other = Fact("The capital {} is in", "Rome", " Italy")
    phrased = [[fact] for fact in (SAME_KEY[0], other, SAME_KEY[1], SAME_KEY[0])]
    assert shared_keys(model, phrased).tolist() == [0, 1, 0, 0]
    states = subject_states(model, [*SAME_KEY, other], Site(2, "key"), contexts=CONTEXTS)
    torch.testing.assert_close(states[0], states[1], rtol=1e-12, atol=1e-12)
    assert (states[0] - states[2]).norm() > 0.1


@pytest.mark.parametrize("ridge", [1e-3, 2.0])
def test_merging_shared_keys_changes_nothing_where_a_ridge_is(model: HookedTransformer, ridge: float) -> None:
    facts = (*SAME_KEY, FACTS[0], SAME_KEY[0])
    wanted = wanted_of(model, 1, facts)
    (write,) = spread_over(model, [1], ridge=ridge, facts=facts, wanted=wanted)
    changes, _ = memit_loop(
        copy.deepcopy(model),
        facts=[(fact.template, fact.subject) for fact in facts],
        wanted=wanted,
        contexts=list(CONTEXTS),
        covariances=moments_of(model),
        layers=[1],
        ridge=ridge,
    )
    assert write.keys == 2
    torch.testing.assert_close(write.edit.delta(), changes[1], rtol=1e-7, atol=1e-9)


def test_without_a_ridge_a_shared_key_gets_the_mean_of_what_is_wanted(model: HookedTransformer) -> None:
    facts = (*SAME_KEY, FACTS[0])
    wanted = wanted_of(model, 1, facts)
    (write,) = spread_over(model, [1], ridge=0.0, facts=facts, wanted=wanted)
    keys = subject_states(model, facts, Site(1, "key"), contexts=CONTEXTS).mean(1)
    residual = wanted - subject_states(model, facts, Site(1, "resid"))[:, 0]
    residual[:2] = residual[:2].mean(0)
    torch.testing.assert_close(keys @ write.edit.delta(), residual, rtol=1e-9, atol=1e-10)
    assert (write.keys, write.jitter, write.gram_jitter) == (2, 0.0, 0.0)


def test_keys_that_differ_by_rounding_alone_do_not_blow_an_exact_write_up(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = (*SAME_KEY, FACTS[0])
    wanted = wanted_of(model, 1, facts)
    (clean,) = spread_over(model, [1], ridge=0.0, facts=facts, wanted=wanted)

    real = SubjectRows.mean_keys

    def rounded(rows: SubjectRows) -> Tensor:
        states = real(rows)
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=states.dtype)
        return states * (1 + 1e-7 * noise)

    monkeypatch.setattr(SubjectRows, "mean_keys", rounded)
    (noisy,) = spread_over(model, [1], ridge=0.0, facts=facts, wanted=wanted)
    assert (noisy.edit.delta() - clean.edit.delta()).norm() < 1e-4 * clean.edit.delta().norm()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("layers", [[0, 1], [1, 2], [0, 2]])
@pytest.mark.parametrize(("name", "value"), [("_AT_ONCE", 2), ("default_memory", lambda model: 0)])
def test_neither_rows_in_a_run_nor_what_is_kept_between_layers_changes_the_result(
    models: dict[str, HookedTransformer],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    layers: list[int],
    name: str,
    value: Any,
) -> None:
    together = spread_over(models[kind], layers)
    monkeypatch.setattr(subject_rows, name, value)
    for a, b in zip(together, spread_over(models[kind], layers), strict=True):
        assert (a.edit.delta() - b.edit.delta()).norm() < 1e-8 * b.edit.delta().norm()
        assert a.missing == pytest.approx(b.missing, rel=1e-10)


def test_nothing_below_a_layer_is_run_again_for_it(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[tuple[int, int]] = []
    real = subject_rows.through

    def counted(model: Any, residual: Tensor, layer: int, **read: Any) -> Any:
        passed.append((layer, len(residual)))
        return real(model, residual, layer, **read)

    monkeypatch.setattr(subject_rows, "through", counted)
    spread_over(model, [0, 1, 2])
    n, bare = len(FACTS) * len(CONTEXTS), len(FACTS)
    first = [(0, bare), (1, bare), (2, bare), (0, n)]
    assert passed == [*first, (0, n), (1, bare), (2, bare), (1, n), (1, n), (2, bare), (2, n)]


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("broken", ["closed_form_update", "through", "apply_edits", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_weights_and_active_edits_are_bit_for_bit_as_before_whatever_fails(
    tiny_model: HookedTransformer,
    monkeypatch: pytest.MonkeyPatch,
    others: int,
    broken: str | None,
    dtype: torch.dtype,
) -> None:
    model = tiny_model.to(dtype)
    generator = torch.Generator().manual_seed(3)
    for layer in range(others):
        left, right = (
            0.1 * torch.randn(shape, generator=generator) for shape in ((model.cfg.d_mlp, 1), (1, 32))
        )
        apply_edits(model, [WeightEdit(f"blocks.{layer}.mlp.W_out", left, right)])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    ledger, asked = active_edits(model), wanted_of(model, 2)
    if broken is not None:
        place = {"closed_form_update": layer_solves, "through": subject_rows, "apply_edits": spread}[broken]
        calls, real = [], getattr(place, broken)

        def second_call_in_layer_one_fails(*args: Any, **kwargs: Any) -> Any:
            calls.append(model.blocks[0].mlp.W_out.detach().clone())
            if not torch.equal(calls[-1], before["blocks.0.mlp.W_out"]):
                raise WorkError("injected")
            return real(*args, **kwargs)

        monkeypatch.setattr(place, broken, second_call_in_layer_one_fails)
        with pytest.raises(WorkError, match="injected"):
            spread_over(model, [0, 1, 2], wanted=asked)
    else:
        spread_over(model, [0, 1, 2], wanted=asked)
    assert active_edits(model) == ledger
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    for handle in ledger:
        handle.undo()
    assert not active_edits(model)


def test_a_layer_whose_moment_cannot_be_inverted_is_refused_and_the_model_restored(
    model: HookedTransformer,
) -> None:
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    moments = {**moments_of(model), 2: -torch.eye(model.cfg.d_mlp, dtype=torch.float64)}
    with pytest.raises(InputError, match="covariance: expected a positive semi-definite"):
        spread_over(model, [0, 1, 2], moments=moments)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
