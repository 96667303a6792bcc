"""What editors of many facts refuse, before any work and in words that help."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing import writing
from mechstyle.editing.batch_methods import emmet, memit
from mechstyle.editing.covariance import Covariance, CovarianceWarning, covariance
from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import checked_layers, checked_ridge
from mechstyle.editing.methods import rome
from mechstyle.editing.targets import TargetOptions
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import EditRequest, Fact

FACT = Fact("{} plays the", "Miles Davis", " trumpet")
REQUEST = EditRequest(FACT, " guitar")
ONE_STEP = TargetOptions(steps=1)


@pytest.fixture
def moments(tiny_model: HookedTransformer) -> Covariance:
    texts = ["Miles Davis plays the trumpet. Paris is the capital of France."] * 40
    return covariance(tiny_model, texts, layers=[0, 1], n_keys=300)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"requests": []}, InputError, "requests: expected at least one EditRequest, got none"),
        ({"requests": None}, InputError, "requests: expected a sequence of EditRequests, got a NoneType"),
        ({"requests": FACT}, InputError, "requests: expected a sequence of EditRequests, got a Fact"),
        ({"requests": [REQUEST, FACT]}, InputError, r"requests\[1\]: expected an EditRequest, got Fact"),
        ({"requests": "Miles"}, InputError, "requests: expected a sequence of EditRequests, got a str"),
        (
            {"requests": [REQUEST, EditRequest(FACT, " piano")]},
            InputError,
            r"requests\[1\]: wants ' piano' after 'Miles Davis plays the', but requests\[0\] wants ' guitar'",
        ),
        ({"layers": []}, InputError, r"layers: expected one or more different layers, got \[\]"),
        ({"layers": [1, 0, 1]}, InputError, r"expected one or more different layers, got \[1, 0, 1\]"),
        ({"layers": [0, 3]}, RangeError, "layers must be an integer from 0 to 2"),
        ({"layers": -1}, RangeError, "layers must be an integer from 0 to 2"),
        ({"layers": True}, RangeError, "layers must be an integer from 0 to 2"),
        ({"layers": None}, RangeError, "layers must be an integer from 0 to 2"),
        ({"layers": "0,1"}, RangeError, "layers must be an integer from 0 to 2"),
        ({"covariance": torch.eye(128)}, InputError, "covariance: expected a mapping layer -> matrix"),
        (
            {"layers": [0, 1, 2]},
            InputError,
            r"expected layer 2 in it, got layers \[0, 1\]; collect it with layers=\[0, 1, 2\]",
        ),
        ({"covariance": {}, "layers": [0, 2]}, InputError, r"expected layers 0, 2 in it, got layers \[\]"),
        (
            {"covariance": {0: torch.eye(128), 1: torch.eye(3)}},
            InputError,
            r"expected shape \[128, 128\] at layer 1, got \[3, 3\]",
        ),
        (
            {"covariance": {0: torch.eye(128), 1: torch.full((128, 128), torch.nan)}},
            InputError,
            "covariance: layer 1 holds NaN or infinity",
        ),
        ({"contexts": ("The day. {}",)}, TextError, "the bare '{}' exactly once"),
    ],
)
@pytest.mark.parametrize("method", [memit, emmet])
def test_bad_input_is_refused_before_any_search(
    tiny_model: HookedTransformer,
    moments: Covariance,
    monkeypatch: pytest.MonkeyPatch,
    method: Callable[..., EditSet],
    changes: dict[str, Any],
    error: type,
    message: str,
) -> None:
    monkeypatch.setattr(writing, "search_targets", lambda *_, **__: pytest.fail("searched"))
    given = {"requests": [REQUEST], "layers": [0, 1], "covariance": moments, "contexts": ("{}",), **changes}
    with pytest.raises(error, match=message):
        method(tiny_model, **given)


@pytest.mark.parametrize(
    ("method", "argument", "value", "message"),
    [
        (
            memit,
            "mom2_weight",
            0,
            "mom2_weight: expected a finite number above 0, got 0; emmet writes without",
        ),
        (memit, "mom2_weight", -1.0, "mom2_weight: expected a finite number above 0, got -1.0"),
        (memit, "mom2_weight", math.nan, "above 0, got nan"),
        (memit, "mom2_weight", math.inf, "above 0, got inf"),
        (memit, "mom2_weight", "much", "above 0, got 'much'"),
        (emmet, "ridge", -1e-9, "ridge: expected a finite number 0 or more, got -1e-09"),
        (emmet, "ridge", math.nan, "0 or more, got nan"),
        (emmet, "ridge", True, "0 or more, got True"),
    ],
)
def test_a_bad_ridge_is_refused_before_any_search(
    tiny_model: HookedTransformer,
    moments: Covariance,
    monkeypatch: pytest.MonkeyPatch,
    method: Callable[..., EditSet],
    argument: str,
    value: object,
    message: str,
) -> None:
    monkeypatch.setattr(writing, "search_targets", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(RangeError, match=message):
        method(tiny_model, [REQUEST], layers=[0], covariance=moments, contexts=("{}",), **{argument: value})


def test_good_input_is_put_in_order(tiny_model: HookedTransformer) -> None:
    assert checked_layers(tiny_model, 2) == (2,)
    assert checked_layers(tiny_model, (2, 0)) == (0, 2)
    assert checked_ridge(0, "ridge", zero=True) == 0.0
    assert checked_ridge(3, "mom2_weight", zero=False) == 3.0


def test_a_covariance_of_another_model_is_refused(tiny_model: HookedTransformer, moments: Covariance) -> None:
    foreign = dataclasses.replace(
        moments, provenance={**moments.provenance, "fingerprint": "0123456789abcdef"}
    )
    with pytest.raises(InputError, match=r"got one of another \(0123456789ab\)"):
        memit(tiny_model, REQUEST, layers=0, covariance=foreign, contexts=("{}",))


def test_processed_models_are_refused(tiny_model: HookedTransformer, moments: Covariance) -> None:
    tiny_model.cfg.normalization_type = "LNPre"
    with pytest.raises(ModelError, match="processed weights"):
        emmet(tiny_model, REQUEST, layers=0, covariance=moments)


@pytest.mark.parametrize(
    ("method", "where"), [(rome, {"layer": 0}), (memit, {"layers": [0, 1]}), (emmet, {"layers": [0, 1]})]
)
def test_another_bos_setting_warns_once_at_the_line_that_called_the_editor(
    tiny_model: HookedTransformer, moments: Covariance, method: Callable[..., EditSet], where: dict[str, Any]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method(
            tiny_model,
            [REQUEST],
            covariance=moments,
            contexts=("{}",),
            target_options=ONE_STEP,
            prepend_bos=True,
            **where,
        )
    ours = [warning for warning in caught if warning.category is CovarianceWarning]
    assert [warning.filename for warning in ours] == [__file__]
    assert "prepend_bos=False, but the edit uses prepend_bos=True" in str(ours[0].message)
