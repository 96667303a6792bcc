from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from mechstyle.editing.batch_methods import MEMIT_OPTIONS, alphaedit, emmet, memit
from mechstyle.editing.finetune import finetune
from mechstyle.editing.finetune_options import FinetuneOptions
from mechstyle.editing.hparams import (
    EDITOR_ARGUMENTS,
    Hyperparameters,
    all_hyperparameters,
    hyperparameters,
    published_widths,
)
from mechstyle.editing.methods import rome
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError, ModelError

EDITORS: dict[str, Callable[..., Any]] = {
    "rome": rome, "memit": memit, "emmet": emmet, "alphaedit": alphaedit, "ft": finetune, "ft-l": finetune,
}  # fmt: skip
ROWS = all_hyperparameters()


def named(row: Hyperparameters) -> str:
    return f"{row.model}-{row.method}"


@pytest.mark.parametrize(
    ("model", "layer", "clamp"), [("medium", 8, 3.0), ("large", 12, 4.0), ("xl", 17, 4.0), ("gpt-j", 5, 4.0)]
)
def test_rome_has_its_published_layer_and_clamp(model: str, layer: int, clamp: float) -> None:
    found = hyperparameters(model if model == "gpt-j" else f"gpt2-{model}", "rome")
    assert (found.layers, found.target_options) == ((layer,), TargetOptions(clamp_norm=clamp))
    assert found.covariance_documents == 100_000


@pytest.mark.parametrize(
    ("model", "layers", "weight", "steps"),
    [("gpt2-xl", range(13, 18), 20_000, 20), ("gpt-j", range(3, 9), 15_000, 25)],
)
def test_memit_and_alphaedit_have_their_published_layers_and_weights(
    model: str, layers: range, weight: float, steps: int
) -> None:
    found, null = hyperparameters(model, "memit"), hyperparameters(model, "alphaedit")
    assert (found.layers, found.mom2_weight) == (tuple(layers), weight)
    assert found.target_options == TargetOptions(steps=steps, clamp_norm=0.75) == null.target_options
    assert (null.layers, null.threshold, null.l2, null.legacy) == (tuple(layers), 0.02, 10.0, True)
    assert MEMIT_OPTIONS.clamp_norm == 0.75


@pytest.mark.parametrize(("model", "layer", "ridge"), [("gpt2-xl", 17, 100.0), ("gpt-j", 5, 0.1)])
def test_emmet_has_its_published_layer_and_effective_ridge(model: str, layer: int, ridge: float) -> None:
    found = hyperparameters(model, "emmet")
    assert (found.layers, found.ridge) == ((layer,), ridge)
    assert found.target_options is not None
    assert found.target_options.clamp_norm == 0.75


@pytest.mark.parametrize(
    ("model", "bound"), [("gpt2-medium", 2e-3), ("gpt2-large", 1e-3), ("gpt2-xl", 5e-4), ("gpt-j", 5e-5)]
)
def test_ft_l_has_its_published_bound(model: str, bound: float) -> None:
    found = hyperparameters(model, "ft-l")
    assert found.layers == (0,)
    assert found.finetune_options == FinetuneOptions(steps=25, lr=5e-4, norm_constraint=bound)


def test_plain_fine_tuning_and_llama_are_in_the_table_too() -> None:
    assert (hyperparameters("gpt2-xl", "ft").layers, hyperparameters("gpt-j", "ft").layers) == ((1,), (21,))
    llama = hyperparameters("meta-llama/Meta-Llama-3-8B", "alphaedit")
    assert (llama.layers, llama.threshold, llama.l2) == ((4, 5, 6, 7, 8), 0.02, 10.0)
    assert llama.target_options == TargetOptions(steps=25, lr=0.1, clamp_norm=0.75)


def test_gpt2_small_says_that_it_is_not_published() -> None:
    found = hyperparameters("gpt2", "rome")
    assert found.layers == (5,)
    assert found.source.startswith("practice, not published")


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_every_row_can_be_used(row: Hyperparameters) -> None:
    n_layers, _ = published_widths()[row.model]
    assert list(row.layers) == sorted(set(row.layers))
    assert set(row.layers) <= set(range(n_layers))
    known = inspect.signature(EDITORS[row.method]).parameters
    assert set(row.arguments) <= set(known)
    assert row.arguments[next(iter(EDITOR_ARGUMENTS[row.method]))] == row.layers
    fields = set(EDITOR_ARGUMENTS[row.method].values())
    foreign = {"target_options", "finetune_options", "mom2_weight", "ridge", "threshold", "l2"} - fields
    assert all(getattr(row, field) is None for field in foreign)
    assert (row.target_options is None) != (row.finetune_options is None)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_every_row_tells_the_file_and_commit_it_comes_from(row: Hyperparameters) -> None:
    if row.model != "gpt2":
        assert re.search(r"^[\w-]+/[\w-]+@[0-9a-f]{7}:hparams/\S+\.json \(\w+ et al\. 20\d\d\)$", row.source)
    with pytest.raises(FrozenInstanceError):
        row.ridge = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["gpt2-xl", "GPT2-XL", "openai-community/gpt2-xl", "/models/gpt2-xl/", r"C:\models\gpt2-xl"]
)
def test_names_are_known_without_owner_folder_and_case(name: str) -> None:
    assert hyperparameters(name, "rome").model == "gpt2-xl"


def test_a_model_is_known_by_its_name_and_size(tiny_model: HookedTransformer) -> None:
    tiny_model.cfg.model_name = "gpt2-medium"
    with pytest.raises(
        InputError, match="no published hyper-parameters for 'gpt2-medium' of 3 layers and d_mlp 128"
    ):
        hyperparameters(tiny_model, "rome")
    tiny_model.cfg.n_layers, tiny_model.cfg.d_mlp = 24, 4096
    assert hyperparameters(tiny_model, "rome").layers == (8,)
    tiny_model.cfg.model_name = "mine"
    with pytest.raises(
        InputError, match="gpt2-medium has this size: if it is one, ask for 'gpt2-medium' by name"
    ):
        hyperparameters(tiny_model, "rome")


def test_what_is_absent_is_refused_with_the_nearest_rows() -> None:
    with pytest.raises(InputError, match="method: expected one of rome, memit, .*, got 'mend'"):
        hyperparameters("gpt2-xl", "mend")
    with pytest.raises(
        InputError,
        match=r"method: 'memit' has no published hyper-parameters for gpt2-medium, only rome, ft-l; 'memit' "
        r"has them for gpt2-xl \(48 layers\), gpt-j \(28 layers\), llama-3-8b \(32 layers\). suggest_hparams",
    ):
        hyperparameters("gpt2-medium", "memit")
    with pytest.raises(
        InputError, match="model_or_name: no published hyper-parameters for 'pythia-1b'; 'emmet'"
    ):
        hyperparameters("EleutherAI/pythia-1b".split("/")[1], "emmet")
    with pytest.raises(ModelError, match="expected a HookedTransformer or TransformerBridge, got int"):
        hyperparameters(3, "rome")  # type: ignore[arg-type]
