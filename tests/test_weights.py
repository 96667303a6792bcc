"""Whether weights may be edited: in every number format, whoever loaded them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.errors import ModelError
from mechstyle.hf_convert import quiet_deprecation
from mechstyle.identity import named_weights
from mechstyle.models import load_model, parameter, require_editable
from mechstyle.weights import parameter_value

FORMATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
STEPS = {
    "fold_ln": r"LayerNorm is folded into them \(normalization_type 'LNPre'\)",
    "center_writing_weights": "the rows of blocks.0.mlp.W_out are centred",
    "center_unembed": "the rows of unembed.W_U are centred",
}


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_each_processing_is_noticed_on_a_loaded_model_in_every_number_format(
    step: str, dtype: torch.dtype, tiny_folder: Path
) -> None:
    model = load_model(tiny_folder, dtype=dtype)
    require_editable(model)
    model.process_weights_(**{name: name == step for name in STEPS})
    with pytest.raises(ModelError, match=f"model has processed weights: {STEPS[step]}"):
        require_editable(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_plain_weights_of_16_bits_are_editable_also_without_our_loader(
    dtype: torch.dtype, tiny_folder: Path, organism: HookedTransformer
) -> None:
    for model in (load_model(tiny_folder), organism):
        with quiet_deprecation():
            other = HookedTransformer(copy.deepcopy(model.cfg))
        other.load_state_dict(model.state_dict())
        require_editable(other.to(dtype, print_details=False))


@pytest.mark.parametrize("width", [32, 512, 4096, 12288])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_centred_rows_of_any_width_are_told_from_rows_that_a_decayed_mean_makes_nearly_so(
    width: int, offset: float, dtype: torch.dtype, tiny_model: HookedTransformer
) -> None:
    """As wide as the largest models; 0.15 is how far weight decay has shrunk the means of the organism."""
    rows = torch.randn(32, width, generator=torch.Generator().manual_seed(0)) + offset
    rows = rows.to(dtype).float()
    middle = rows.mean(-1, keepdim=True)
    tiny_model.blocks[0].mlp.W_out = torch.nn.Parameter((rows - middle + 0.15 * middle).to(dtype))
    require_editable(tiny_model)
    tiny_model.blocks[0].mlp.W_out = torch.nn.Parameter((rows - middle).to(dtype))
    with pytest.raises(ModelError, match="blocks.0.mlp.W_out are centred"):
        require_editable(tiny_model)


def test_weights_that_are_all_zero_are_not_taken_for_centred(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        parameter(tiny_model, "blocks.0.mlp.W_out").zero_()
    require_editable(tiny_model)


def test_values_are_read_without_gradients_and_written_only_through_the_parameter(
    tiny_model: HookedTransformer,
) -> None:
    value, live = parameter_value(tiny_model, "embed.W_E"), parameter(tiny_model, "embed.W_E")
    assert live.requires_grad
    assert not value.requires_grad
    assert value.data_ptr() == live.data_ptr()
    assert named_weights(tiny_model).keys() == dict(tiny_model.named_parameters()).keys()


def test_an_unknown_value_is_named_with_one_that_exists(tiny_model: HookedTransformer) -> None:
    with pytest.raises(ModelError, match=r"no parameter 'blocks.9.attn.W_O'; it has .* 'blocks.0.attn.W_O'"):
        parameter_value(tiny_model, "blocks.9.attn.W_O")
