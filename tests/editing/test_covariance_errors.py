"""Bad second moments by class: of another model, of another width, singular, cut short, something else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.cli import run
from mechstyle.editing.covariance import Covariance, CovarianceWarning
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError

REQUEST = ms.EditRequest(ms.Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar")
OTHER = ms.EditRequest(ms.Fact("{} is the capital of", "Paris", " France"), " Italy")
TEXTS = ["Miles Davis plays the trumpet.", "Rome is the capital of Italy.", "He was born in London."] * 30
FACT = ["--prompt", "{} plays the", "--subject", "Miles Davis", "--target", " trumpet", "--new", " guitar"]
FEW = TargetOptions(steps=3)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tiny_model: HookedTransformer, tmp_path: Path) -> Path:
    return ms.covariance(tiny_model, TEXTS, layers=[1], n_keys=300).save(tmp_path / "c.safetensors")


def of_another_model(path: Path) -> None:
    moments = Covariance.load(path)
    Covariance(moments.matrices, moments.count, {**moments.provenance, "fingerprint": "0" * 64}).save(path)


def of_another_width(path: Path) -> None:
    moments = Covariance.load(path)
    Covariance({1: moments[1][:5, :5]}, moments.count, moments.provenance).save(path)


def of_another_layer(path: Path) -> None:
    moments = Covariance.load(path)
    Covariance({0: moments[1]}, moments.count, moments.provenance).save(path)


def not_finite(path: Path) -> None:
    moments = Covariance.load(path)
    Covariance({1: moments[1] / 0.0}, moments.count, moments.provenance).save(path)


def negative(path: Path) -> None:
    moments = Covariance.load(path)
    Covariance({1: -moments[1]}, moments.count, moments.provenance).save(path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def an_edit(path: Path) -> None:
    ms.EditSet((ms.WeightEdit("blocks.0.mlp.W_out", torch.ones(2, 1), torch.ones(1, 2)),), "0").save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (of_another_model, "covariance: expected one of this model (fingerprint"),
        (of_another_width, "covariance: expected shape [128, 128] at layer 1, got [5, 5]"),
        (of_another_layer, "covariance: expected layer 1 in it, got layers [0]"),
        (not_finite, "covariance: layer 1 holds NaN or infinity"),
        (negative, "expected a positive semi-definite"),
        (cut_short, "damaged or no safetensors file"),
        (emptied, "damaged or no safetensors file"),
        (an_edit, "expected kind 'covariance' in format 1, got 'edit'"),
        (Path.unlink, "expected a file there"),
    ],
)
def test_a_bad_file_of_moments_is_wrong_input_and_nothing_is_written(
    file: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: Capture,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    damage(file)
    out = tmp_path / "edit.safetensors"
    words = ["edit", "--model", str(tiny_folder), *FACT, "--layer", "1", "--covariance", str(file)]
    assert run([*words, "--out", str(out), "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert not out.exists()


@pytest.mark.filterwarnings("ignore::mechstyle.editing.covariance.CovarianceWarning")
@pytest.mark.parametrize("method", [ms.memit, ms.emmet])
def test_singular_moments_work_and_the_ridge_is_told_in_the_edit(
    tiny_model: HookedTransformer, method: Callable[..., ms.EditSet]
) -> None:
    few = ms.covariance(tiny_model, TEXTS, layers=[1], n_keys=60)
    assert few.condition_number(1) > 1e12
    assert few.jitter(1) > 0.0
    regular = {1: torch.eye(128, dtype=torch.float64)}
    for covariance, told in ((few, few.jitter(1)), (regular, 0.0)):
        edit = method(
            tiny_model,
            [REQUEST, OTHER],
            layers=1,
            covariance=covariance,
            contexts=("{}",),
            target_options=FEW,
        )
        assert edit.provenance["settings"]["jitter"] == [told]
        assert bool(torch.isfinite(edit.delta("blocks.1.mlp.W_out")).all())


def test_neurons_that_never_fire_neither_need_nor_get_anything(tiny_model: HookedTransformer) -> None:
    """Zero rows and columns of a moment, and keys that are zero there too: as if they did not exist."""
    from mechstyle.solve import closed_form_update

    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    keys, residual = (torch.randn(5, size, generator=generator, dtype=torch.float64) for size in (24, 3))
    dead = torch.arange(24) % 3 == 0
    samples[:, dead] = keys[:, dead] = 0.0
    update = closed_form_update(keys, residual, samples.T @ samples / 200)
    alive = closed_form_update(keys[:, ~dead], residual, samples[:, ~dead].T @ samples[:, ~dead] / 200)
    assert update.jitter > 0.0
    assert alive.jitter == 0.0
    torch.testing.assert_close(update.dense()[~dead], alive.dense(), rtol=1e-9, atol=1e-12)
    assert not update.dense()[dead].any()


def test_a_jitter_is_asked_for_as_an_edit_would_add_it() -> None:
    exact = Covariance({0: torch.diag(torch.tensor([4.0, 1.0, 8.0], dtype=torch.float64))}, 3)
    assert exact.jitter(0) == 0.0
    singular = Covariance({0: torch.diag(torch.tensor([4.0, 0.0, 8.0], dtype=torch.float64))}, 3)
    assert 0.0 < singular.jitter(0) < 1e-10
    examined = singular.examined()
    assert examined.provenance["condition"] == {"0": {"condition_number": None, "jitter": singular.jitter(0)}}
    assert examined[0] is singular[0]
    for bad in (torch.zeros(2, 2), -torch.eye(2)):
        with pytest.raises(InputError, match="covariance: expected a positive semi-definite"):
            Covariance({0: bad}, 3).jitter(0)


def test_plenty_of_keys_warn_of_nothing_and_few_do(tiny_model: HookedTransformer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.covariance(tiny_model, TEXTS, layers=[0], n_keys=300)
    with pytest.warns(CovarianceWarning, match="a ridge will be needed to invert it"):
        ms.covariance(tiny_model, TEXTS, layers=[0], n_keys=100)
