from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, RangeError
from mechstyle.sites import Kind, Site, by_position, check_layer, parse_hook

KINDS = get_args(Kind)


@given(st.integers(0, 200), st.sampled_from(KINDS))
def test_a_hook_name_gives_back_its_site(layer: int, kind: Kind) -> None:
    site = Site(0 if kind == "embed" else layer, kind)
    assert parse_hook(site.hook) == site


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_and_parameter_exists_in_a_model(kind: Kind, tiny_model: HookedTransformer) -> None:
    site = Site(0 if kind == "embed" else 2, kind)
    assert site.hook in tiny_model.hook_dict
    if kind in ("mlp", "attn", "key", "embed"):
        names = dict(tiny_model.named_parameters())
        assert site.parameter in names
        assert site.bias is None or site.bias in names


def test_the_mlp_output_is_its_keys_times_its_parameter_plus_its_bias(tiny_model: HookedTransformer) -> None:
    key, out = Site(1, "key"), Site(1, "mlp")
    _, cache = tiny_model.run_with_cache(tiny_model.tokenizer("Miles Davis", return_tensors="pt").input_ids)
    weights = dict(tiny_model.named_parameters())
    assert out.bias is not None
    computed = cache[key.hook] @ weights[key.parameter] + weights[out.bias]
    assert (computed - cache[out.hook]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, "head"), InputError, "Site.kind must be one of resid, mlp, attn, key, embed, .*; 'head' came"),
        ((-1, "mlp"), RangeError, "Site.layer must be 0 or more; -1 came"),
        ((1, "embed"), RangeError, "because embeddings have no layer; 1 came"),
    ],
)
def test_a_site_that_cannot_be_is_refused(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Site(*arguments)


@pytest.mark.parametrize("kind", ["resid", "z", "q", "k", "v", "pattern"])
def test_no_single_weight_writes_the_residual_stream_or_what_is_inside_of_attention(kind: Kind) -> None:
    with pytest.raises(
        InputError, match=f"no single weight belongs to a '{kind}' site; .* mlp, attn, embed, key"
    ):
        _ = Site(0, kind).parameter


def test_positions_come_second_in_a_view_of_any_state(tiny_model: HookedTransformer) -> None:
    ids = tiny_model.tokenizer("Miles Davis", return_tensors="pt").input_ids
    _, cache = tiny_model.run_with_cache(ids)
    for kind in KINDS:
        state = cache[Site(0, kind).hook]
        view = by_position(kind, state)
        assert view.shape[:2] == ids.shape
        assert view.data_ptr() == state.data_ptr()


def test_a_hook_of_no_site_is_refused() -> None:
    with pytest.raises(InputError, match="'blocks.0.hook_resid_mid' belongs to no kind of site"):
        parse_hook("blocks.0.hook_resid_mid")


@pytest.mark.parametrize("layer", [-1, 3, 1.0, True, "1", None])
def test_a_layer_outside_of_the_model_is_refused(layer: Any) -> None:
    with pytest.raises(
        RangeError, match="edit_layer must be an integer from 0 to 2, since the model has 3 layers"
    ):
        check_layer(layer, 3, name="edit_layer")
    assert check_layer(2, 3) == 2


def test_a_layer_that_numpy_counted_is_a_plain_integer_afterwards() -> None:
    assert type(check_layer(np.int64(2), 3)) is int  # type: ignore[arg-type]
