"""What is collected or searched while edits are active says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing import target_runs
from mechstyle.editing.covariance import CovarianceWarning
from mechstyle.editing.target_rows import target_rows
from mechstyle.editing.target_runs import requests_within
from mechstyle.editing.targets import TargetOptions, TargetWarning, optimise_target, optimise_targets
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError
from mechstyle.models import edited_weights, fingerprint
from mechstyle.sites import Site

FACT = ms.Fact("The instrument of {} is the", "Miles Davis", " trumpet")
REQUEST = ms.EditRequest(FACT, " guitar")
TEXTS = ["Miles Davis plays the trumpet.", "Rome is the capital of Italy.", "He was born in London."] * 60
FEW = TargetOptions(steps=3)
NAME = "blocks.0.mlp.W_out"


def edit_of(model: HookedTransformer) -> ms.EditSet:
    shape = dict(model.named_parameters())[NAME].shape
    generator = torch.Generator().manual_seed(0)
    change = WeightEdit(
        NAME, torch.randn(shape[0], 1, generator=generator), torch.randn(1, shape[1], generator=generator)
    )
    return ms.EditSet((change,), fingerprint(model))


def test_a_covariance_collected_under_an_edit_says_so_and_an_edit_made_with_it_warns(
    tiny_model: HookedTransformer,
) -> None:
    edit = edit_of(tiny_model)
    plain = ms.covariance(tiny_model, TEXTS, layers=[1], n_keys=300)
    with edit.applied(tiny_model):
        under = ms.covariance(tiny_model, TEXTS, layers=[1], n_keys=300)
        covered = edited_weights(tiny_model)
        inside = ms.rome(tiny_model, REQUEST, layer=1, covariance=under, contexts=("{}",), target_options=FEW)
        # The usual way to stack edits: moments of the model as it was.
        ms.rome(tiny_model, REQUEST, layer=1, covariance=plain, contexts=("{}",), target_options=FEW)
    assert not torch.allclose(plain[1], under[1])
    assert plain.provenance["settings"]["edited_weights"] == {}
    assert under.provenance["settings"]["edited_weights"] == covered
    assert list(covered) == [NAME]
    assert inside.provenance["settings"]["active_edits"] == [NAME]
    with pytest.warns(CovarianceWarning, match=f"collected while edits of {NAME} were active"):
        ms.rome(tiny_model, REQUEST, layer=1, covariance=under, contexts=("{}",), target_options=FEW)


def test_a_checkpoint_begun_without_an_edit_is_not_gone_on_with_under_one(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "moments"

    def cut_short() -> object:
        yield from TEXTS[:40]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ms.covariance(tiny_model, cut_short(), layers=[1], checkpoint=path, checkpoint_every=1)
    with (
        edit_of(tiny_model).applied(tiny_model),
        pytest.raises(InputError, match="checkpoint"),
    ):
        ms.covariance(tiny_model, TEXTS, layers=[1], checkpoint=path, checkpoint_every=1)


@pytest.mark.parametrize("kind", ["mlp", "resid"])
@pytest.mark.parametrize("hooked", [False, True], ids=["resumed", "whole"])
def test_where_the_answer_cannot_be_reached_no_change_is_wanted_and_a_warning_says_so(
    tiny_model: HookedTransformer, kind: str, hooked: bool
) -> None:
    if hooked:
        tiny_model.add_hook("hook_embed", lambda state, hook: None)
    with pytest.warns(TargetWarning, match="layer 2, the last one.*cannot reach the answer of 1 request"):
        found = optimise_target(tiny_model, REQUEST, layer=2, kind=kind)  # type: ignore[arg-type]
    assert not found.delta.any()
    assert len(found.losses) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda model: optimise_target(model, REQUEST, layer=2, options=FEW),
        lambda model: optimise_targets(model, [REQUEST] * 2, layer=2, options=FEW, batch_size=1),
        lambda model: ms.rome(model, REQUEST, layer=2, **_writing(model)),
        lambda model: ms.memit(model, REQUEST, layers=2, **_writing(model)),
        lambda model: ms.emmet(model, REQUEST, layers=2, **_writing(model)),
        lambda model: ms.alphaedit(model, REQUEST, layers=2, **_writing(model)),
    ],
    ids=["optimise_target", "optimise_targets", "rome", "memit", "emmet", "alphaedit"],
)
def test_the_warning_names_the_line_that_called_the_library_and_comes_once(
    tiny_model: HookedTransformer, call: Callable[[HookedTransformer], object]
) -> None:
    with pytest.warns(TargetWarning) as caught:
        call(tiny_model)
    assert [warning.filename for warning in caught] == [__file__]


def _writing(model: HookedTransformer) -> dict[str, Any]:
    scales = torch.logspace(0, -6, model.cfg.d_mlp, dtype=torch.float64)
    return {"covariance": {2: scales.diag()}, "contexts": ("{}",), "target_options": FEW}


def test_where_the_subject_ends_the_prompt_the_last_layer_reaches_the_answer(
    tiny_model: HookedTransformer,
) -> None:
    at_end = ms.EditRequest(ms.Fact("The day was long for {}", "Miles Davis", " trumpet"), " guitar")
    found = optimise_target(tiny_model, at_end, layer=2, options=FEW)
    assert found.delta.any()
    assert found.answer_nll[-1] < found.answer_nll[0]
    with pytest.warns(TargetWarning, match="of 1 request"):
        together = optimise_targets(tiny_model, [REQUEST, at_end], layer=2, options=FEW)
    assert not together[0].delta.any()
    torch.testing.assert_close(together[1].delta, found.delta)


def test_the_batch_of_a_search_counts_the_runs_that_it_records(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "The day was long. " * 3
    requests = [
        ms.EditRequest(ms.Fact(f"{long}The instrument of {{}} is the", f"Miles {n}", " trumpet"), " guitar")
        for n in range(60)
    ]
    budget = 2**19
    monkeypatch.setattr(target_runs, "default_memory", lambda model: budget)
    rows = target_rows(
        tiny_model, requests, ("{}",), kl_prompt="{} is a", kl_at_subject=True, prepend_bos=False
    )
    size = requests_within(tiny_model, rows, 1)
    assert 1 <= size < len(requests)
    batch, _ = rows.of(range(size))
    base = target_runs.target_runs(tiny_model, batch, Site(1, "mlp")).base  # type: ignore[attr-defined]
    kept = [*base.residuals, *(part for pair in base.past for part in pair), *base.states.values()]
    assert sum(part.numel() * part.element_size() for part in kept) <= budget
