"""Suggested hyper-parameters: the sweep against ``evaluate``, what is scaled, and the organism."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing import suggest
from mechstyle.editing.hparams import all_hyperparameters
from mechstyle.editing.layer_sweep import best_layer, sweep_layers
from mechstyle.editing.methods import rome
from mechstyle.editing.suggest import HparamsWarning, suggest_hparams
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation import evaluate
from mechstyle.facts import EditRequest, Fact

CONTEXTS = ("{}", "The day was long. {}")
FEW = TargetOptions(steps=6)
REQUESTS = (
    EditRequest(
        Fact("{} plays the", "Miles Davis", " trumpet"),
        " guitar",
        paraphrases=("The instrument of Miles Davis is the", "He says: Miles Davis plays the"),
        neighborhood=(("Chet Baker plays the", " trumpet"), ("Bill Evans plays the", " piano")),
    ),
    EditRequest(
        Fact("{} is the capital of", "Paris", " France"),
        " Italy",
        paraphrases=("Paris is a city in",),
        neighborhood=(("Rome is the capital of", " Switzerland"),),
    ),
    EditRequest(Fact("{} was born in", "Danielle Darrieux", " London"), " Rome"),
)


def _eye(model: HookedTransformer) -> dict[int, torch.Tensor]:
    eye = torch.eye(model.cfg.d_mlp, dtype=torch.float64)
    return dict.fromkeys(range(model.cfg.n_layers), eye)


def test_the_sweep_says_what_evaluate_says_of_the_same_edits(tiny_model: HookedTransformer) -> None:
    before = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
    sweep = sweep_layers(
        tiny_model, REQUESTS, covariance=_eye(tiny_model), contexts=CONTEXTS, target_options=FEW
    )
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_model.state_dict().items())
    assert list(sweep["layer"]) == [0, 1]
    assert set(sweep["n_requests"]) == {3}
    for row in sweep.to_dict("records"):
        edits = [
            rome(
                tiny_model, request, layer=row["layer"], covariance=_eye(tiny_model), contexts=CONTEXTS,
                target_options=FEW,
            )
            for request in REQUESTS
        ]  # fmt: skip
        summary = evaluate(tiny_model, REQUESTS, edits=edits).summary()["value"]
        for metric in ("efficacy", "paraphrase", "neighborhood", "score"):
            assert row[metric] == pytest.approx(summary[metric]), metric
        kinds = ("efficacy", "paraphrase", "neighborhood")
        magnitude = sum(summary[f"{kind}_magnitude"] for kind in kinds) / 3
        assert row["magnitude"] == pytest.approx(magnitude, abs=1e-4)


def test_requests_without_paraphrases_and_neighbours_are_scored_by_efficacy(
    tiny_model: HookedTransformer,
) -> None:
    sweep = sweep_layers(
        tiny_model, REQUESTS[2], layers=[1], covariance=_eye(tiny_model), contexts=("{}",), target_options=FEW
    )
    assert sweep[["paraphrase", "neighborhood"]].isna().all(axis=None)
    assert sweep["score"].tolist() == sweep["efficacy"].tolist()


def test_the_best_layer_has_the_highest_score_then_magnitude_then_the_lowest_number() -> None:
    table = pd.DataFrame(
        {"layer": [0, 3, 1, 2], "score": [0.5, 0.9, 0.9, 0.9], "magnitude": [1.0, 0.2, 0.3, 0.3]}
    )
    assert best_layer(table) == 1


@pytest.mark.filterwarnings("ignore:suggest_hparams. no layer of:UserWarning")
def test_a_spreading_method_gets_the_run_that_ends_at_the_best_layer(tiny_model: HookedTransformer) -> None:
    given: dict[str, Any] = {"requests": REQUESTS[:1], "covariance": _eye(tiny_model), "contexts": ("{}",)}
    found = suggest_hparams(tiny_model, "memit", width=2, **given)
    assert found.sweep is not None
    best = best_layer(found.sweep)
    hparams = found.hyperparameters
    assert hparams.layers == tuple(range(max(0, best - 1), best + 1))
    assert hparams.source.startswith("suggested, not published: layers by a sweep over 0, 1 with 1 request ")
    edit = ms.memit(
        tiny_model, REQUESTS[:1], covariance=_eye(tiny_model), contexts=("{}",), **hparams.arguments
    )
    assert edit.provenance["settings"]["layers"] == list(hparams.layers)
    assert suggest_hparams(tiny_model, "rome", layers=[1], **given).hyperparameters.layers == (1,)


@pytest.mark.parametrize("score", [0.0, 0.1])
def test_a_sweep_without_any_success_is_a_warning(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    table = pd.DataFrame({"layer": [0, 1], "score": [0.0, score], "magnitude": [-0.2, -0.1], "n_requests": 1})
    monkeypatch.setattr(suggest, "sweep_layers", lambda *_, **__: table)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        suggest_hparams(tiny_model, "rome", requests=REQUESTS, covariance=_eye(tiny_model))
    assert [str(one.message).split(":")[1][:39] for one in caught] == (
        [] if score else [" no layer of 0, 1 has a score above 0, "]
    )
    assert all(one.filename == __file__ and one.category is HparamsWarning for one in caught)


def test_layers_without_second_moments_are_named(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame({"layer": [1], "score": [1.0], "magnitude": [0.5], "n_requests": 1})
    monkeypatch.setattr(suggest, "sweep_layers", lambda *_, **__: table)
    some = {1: _eye(tiny_model)[1]}
    with pytest.warns(HparamsWarning, match="the covariance lacks layers 0 of 0, 1") as caught:
        found = suggest_hparams(tiny_model, "memit", requests=REQUESTS, covariance=some, width=2)
    assert [one.filename for one in caught] == [__file__]
    assert ", of which 0 lack second moments; the rest from" in found.hyperparameters.source
    alone = suggest_hparams(tiny_model, "memit", requests=REQUESTS, covariance=some, width=1)
    assert "lack" not in alone.hyperparameters.source


@pytest.mark.parametrize(
    ("method", "layers", "clamp"),
    [
        ("rome", (12,), 4.0),
        ("memit", range(7, 13), 0.75),
        ("emmet", (12,), 0.75),
        ("alphaedit", range(7, 13), 0.75),
    ],
)
def test_without_requests_the_layers_are_a_guess_and_the_rest_is_scaled(
    tiny_model: HookedTransformer, method: str, layers: Any, clamp: float
) -> None:
    tiny_model.cfg.n_layers, tiny_model.cfg.d_mlp = 48, 2000
    with pytest.warns(
        HparamsWarning, match="layer 12 of 48 is a guess, for no requests were given"
    ) as caught:
        found = suggest_hparams(tiny_model, method)
    assert caught[0].filename == __file__
    assert found.sweep is None
    assert found.hyperparameters.layers == tuple(layers)
    assert found.hyperparameters.target_options is not None
    assert found.hyperparameters.target_options.clamp_norm == clamp
    # Published weights are 3.1, 0.92 and 1.05 times d_mlp.
    weight = found.hyperparameters.mom2_weight
    assert weight == (pytest.approx(2000 * 15_000 / 14_336) if method == "memit" else None)
    assert "a guess, a quarter of 48" in found.hyperparameters.source


def test_bad_input_is_refused_before_any_work(tiny_model: HookedTransformer) -> None:
    eye = _eye(tiny_model)
    closed = "method: expected one of rome, memit, emmet, alphaedit, got"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("ft", "ft-l", "mend"):
            with pytest.raises(InputError, match=f"{closed} '{method}'"):
                suggest_hparams(tiny_model, method)
        for width in (0, True, 1.5):
            with pytest.raises(RangeError, match="width: expected a whole number of 1 or more"):
                suggest_hparams(tiny_model, "memit", width=width)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="covariance: expected one with the requests, got None"):
            suggest_hparams(tiny_model, "rome", requests=REQUESTS)
        with pytest.raises(InputError, match="requests: expected one EditRequest or more"):
            suggest_hparams(tiny_model, "rome", requests=[], covariance=eye)
        with pytest.raises(InputError, match="requests: expected one EditRequest or more"):
            sweep_layers(tiny_model, [REQUESTS[0].fact], covariance=eye)  # type: ignore[list-item]
        with pytest.raises(
            RangeError, match="layers: expected layers below the last, 2, where no answer can"
        ):
            sweep_layers(tiny_model, REQUESTS, covariance=eye, layers=[1, 2])
        with pytest.raises(RangeError, match="layers"):
            sweep_layers(tiny_model, REQUESTS, covariance=eye, layers=[7])
        with pytest.raises(InputError, match=r"covariance: expected layers \[0, 1\] in it, got \[0\]"):
            sweep_layers(tiny_model, REQUESTS, covariance={0: eye[0]}, layers=[0, 1])
        with pytest.raises(
            InputError, match="covariance: expected a mapping layer -> matrix, .* got NoneType"
        ):
            sweep_layers(tiny_model, REQUESTS, covariance=None)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"layers: expected one or more different layers, got \[\]"):
            sweep_layers(tiny_model, REQUESTS, covariance={2: eye[2]})
        with pytest.raises(TextError, match="contexts: expected a sequence of templates"):
            sweep_layers(tiny_model, REQUESTS, covariance=eye, contexts="{}")


def test_on_the_organism_an_early_layer_is_better_than_a_late_one(organism: HookedTransformer) -> None:
    texts = ms.organisms.texts("organism-m", n=120)
    moments = ms.covariance(organism, texts, layers=[1, 7], n_keys=2_500)
    requests = [
        replace(request, paraphrases=request.paraphrases[:2], neighborhood=request.neighborhood[:2])
        for request in ms.organisms.requests("organism-m", n=2, seed=3)
    ]
    found = suggest_hparams(organism, "rome", requests=requests, covariance=moments, contexts=("{}",))
    assert found.hyperparameters.layers == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_the_sweep_finds_the_layers_that_hold_the_facts_of_the_organism(
    organism: HookedTransformer, seed: int
) -> None:
    layers = range(organism.cfg.n_layers - 1)
    texts = ms.organisms.texts("organism-m", n=250)
    moments = ms.covariance(organism, texts, layers=layers, n_keys=8_000)
    requests = ms.organisms.requests("organism-m", n=6, seed=seed)
    found = suggest_hparams(organism, "rome", requests=requests, covariance=moments)
    assert found.hyperparameters.layers[0] in (0, 1, 2)
    assert found.sweep is not None
    late = found.sweep[found.sweep["layer"] >= 5]
    assert found.sweep["score"].max() > late["score"].max()


def test_every_closed_form_method_of_the_table_can_be_suggested(tiny_model: HookedTransformer) -> None:
    methods = {row.method for row in all_hyperparameters() if row.target_options}
    assert methods == {"rome", "memit", "emmet", "alphaedit"}
    for method in methods:
        with pytest.warns(HparamsWarning):
            assert suggest_hparams(tiny_model, method).hyperparameters.layers == (0,)
