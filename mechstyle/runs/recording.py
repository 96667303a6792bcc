"""Recorded runs: the states, keys and values of a run, from which other runs are resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.blocks import KeysValues, keys_values, require_resumable, run_block
from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.models import HookedModel
from mechstyle.runs.full import Hook, checked_inputs, known_places
from mechstyle.sites import Site, check_layer

__all__ = ["Recording", "attached", "record", "record_again", "rerun_blocks"]


@dataclass(frozen=True, eq=False)
class Recording:
    """What a run leaves behind for the runs that are resumed from it. Weight edits make it stale.

    Attributes:
        residuals: by layer, what enters it; the last is what leaves the last layer. Their first column is
            position ``start``.
        past: by layer, keys and values at all positions.
        start: the position of the residuals' first column.
        n_positions: length of the sequences, from position 0.
        states: what was asked for besides, from position ``start`` on.
        attention_mask: 0 at padding; None without padding.
    """

    residuals: tuple[Float[Tensor, "row pos d_model"], ...]
    past: tuple[KeysValues, ...]
    start: int
    n_positions: int
    states: Mapping[Site, Float[Tensor, "row pos d"]]
    attention_mask: Int[Tensor, "row all_pos"] | None = None

    @property
    def n_rows(self) -> int:
        """Number of sequences."""
        return len(self.residuals[0])

    def before(self, layer: int, position: int) -> KeysValues:
        """Keys and values of a layer at the positions before this one.

        Raises:
            RangeError: they were not all recorded (``narrow``).
        """
        keys, values = self.past[layer]
        if not 0 <= position <= keys.shape[1]:
            raise RangeError(
                f"position: expected 0 to {keys.shape[1]}, the positions recorded in layer {layer}, "
                f"got {position}; record without `narrow`, or up to there."
            )
        return keys[:, :position], values[:, :position]

    def rows(self, index: Int[Tensor, " kept"]) -> Recording:
        """Some of the sequences."""
        mask = self.attention_mask
        return Recording(
            tuple(residual[index] for residual in self.residuals),
            tuple((keys[index], values[index]) for keys, values in self.past),
            self.start,
            self.n_positions,
            {site: state[index] for site, state in self.states.items()},
            None if mask is None else mask[index],
        )

    def entering(self, layer: int, position: int) -> Float[Tensor, "row pos d_model"]:
        """What enters a layer from this position on; the number of layers gives what leaves the last one.

        Raises:
            RangeError: it was not recorded there.
        """
        width = self.residuals[layer].shape[1]
        if not self.start <= position < self.n_positions or width < self.n_positions - self.start:
            raise RangeError(
                f"position: expected {self.start} to {self.n_positions - 1}, in a layer whose states were "
                f"recorded, got {position} in layer {layer}."
            )
        return self.residuals[layer][:, position - self.start :]


def record(
    model: HookedModel,
    ids: Int[Tensor, "row pos"],
    *,
    attention_mask: Int[Tensor, "row pos"] | None = None,
    sites: Sequence[Site] = (),
    hooks: Sequence[Hook] = (),
    narrow: tuple[int, int] | None = None,
) -> Recording:
    """Run whole sequences through all layers and keep what resumed runs need, without gradients.

    Args:
        attention_mask: 0 at padding (on either side), 1 at real tokens; None means no padding.
        sites: further states to keep.
        hooks: (name, function) pairs for this run only.
        narrow: (layer, position) of the runs that will be resumed, when it is known: from this layer on only
            the positions before this one are run, and nothing else is kept.

    Raises:
        InputError: ``ids`` is not [row, pos], the mask has another shape, or a site is in no layer.
        RangeError: the model has no such layer, or ``narrow`` lies outside of the sequences.
        ModelError: runs of this model cannot be resumed, or nothing is run at a site because ``narrow``
            leaves no position there.

    Example:
        >>> base = record(model, encoded.ids[None])  # doctest: +SKIP
    """
    require_resumable(model)
    checked_inputs(model, ids, attention_mask)
    _check_sites(model, sites)
    if narrow is not None:
        _check_narrow(narrow, int(model.cfg.n_layers), ids)
    mask = None if attention_mask is None else checked_inputs(model, ids, attention_mask)[1]
    with torch.no_grad(), attached(model, hooks):
        residual = _embed(model, ids, mask)
        return _run(model, residual, None, start=0, sites=sites, mask=mask, narrow=narrow)


def record_again(
    model: HookedModel,
    base: Recording,
    ids: Int[Tensor, "row pos"],
    *,
    start: int,
    sites: Sequence[Site] = (),
    hooks: Sequence[Hook] = (),
) -> Recording:
    """Record runs that differ from a recorded one from a position on: nothing before it is run.

    Args:
        ids: one row a run; row ``i`` has the tokens of row ``i % base.n_rows`` before ``start``.
        hooks: what makes the runs different, such as noise at ``hook_embed``.

    Raises:
        InputError: ``ids`` cannot continue the recorded runs, these have padding, or a site is in no layer.
        RangeError: ``start`` is not one of their positions, or the model has no such layer.
        ModelError: runs of this model cannot be resumed.

    Example:
        >>> noisy = record_again(model, clean, ids.expand(10, -1), start=2, hooks=[noise])  # doctest: +SKIP
    """
    require_resumable(model)
    _check_sites(model, sites)
    if base.attention_mask is not None:
        raise InputError("base: expected a recording without padding, got one with an attention mask.")
    rows, width = base.n_rows, base.n_positions
    checked_inputs(model, ids, None)
    if len(ids) % rows or ids.shape[1] != width:
        raise InputError(
            f"ids: expected [a multiple of {rows} rows, {width} positions] to continue the recorded runs, "
            f"got {list(ids.shape)}."
        )
    if not 0 <= start < width:
        raise RangeError(f"start: expected a position from 0 to {width - 1}, got {start}.")
    with torch.no_grad(), attached(model, hooks):
        residual = _embed(model, ids, None)[:, start:]
        return _run(model, residual, base, start=start, sites=sites, mask=None)


def rerun_blocks(
    model: HookedModel,
    recording: Recording,
    base: Recording,
    *,
    hooks: Sequence[Hook],
    layers: Sequence[int] | None = None,
    positions: range | None = None,
    copies: int = 1,
) -> list[Float[Tensor, "row pos d_model"]]:
    """Run blocks again on what entered them in a recorded run; changes are not carried to the next block.

    Args:
        base: gives the keys and values at the positions before those that are run.
        hooks: what is different this time.
        layers: None means all.
        positions: the positions that are run; None means all recorded ones.
        copies: how often the recorded rows are run, one set after the other.

    Returns:
        what leaves each of the layers.

    Example:
        >>> after = rerun_blocks(model, noisy, clean, hooks=[put_back])  # doctest: +SKIP
    """
    places = range(recording.start, recording.n_positions) if positions is None else positions
    found = []
    with torch.no_grad(), attached(model, hooks):
        for layer in range(int(model.cfg.n_layers)) if layers is None else layers:
            entering = recording.entering(layer, places.start)[:, : len(places)].repeat(copies, 1, 1)
            found.append(run_block(model, layer, entering, base.before(layer, places.start))[0])
    return found


def attached(model: HookedModel, hooks: Sequence[Hook]) -> AbstractContextManager[Any]:
    """Hooks for the length of a block; they are gone afterwards, whatever happens inside.

    Raises:
        InputError: the model has no hook of a name.
    """
    known_places(model, hooks)
    return model.hooks(fwd_hooks=list(hooks)) if hooks else nullcontext()


def _check_sites(model: HookedModel, sites: Sequence[Site]) -> None:
    for site in sites:
        check_layer(site.layer, model.cfg.n_layers, name="sites: layer")
        if site.kind == "embed":
            raise InputError("sites: expected states inside layers, got the embedding; `capture` reads it.")


def _check_narrow(narrow: tuple[int, int], n_layers: int, ids: Tensor) -> None:
    layer, position = narrow
    width = ids.shape[-1]
    if not (0 <= layer <= n_layers and 0 <= position < width):
        raise RangeError(
            f"narrow: expected a layer from 0 to {n_layers} and a position from 0 to {width - 1}, "
            f"got {narrow}."
        )


def _embed(model: HookedModel, ids: Tensor, mask: Tensor | None) -> Tensor:
    ids, every = checked_inputs(model, ids, mask)
    embedded = model(ids, return_type=None, attention_mask=every, stop_at_layer=0)
    assert isinstance(embedded, Tensor)
    return embedded


def _run(
    model: HookedModel,
    residual: Tensor,
    base: Recording | None,
    *,
    start: int,
    sites: Sequence[Site],
    mask: Tensor | None,
    narrow: tuple[int, int] | None = None,
) -> Recording:
    """Run all layers; with ``narrow``, keep what is needed to resume exactly there."""
    n_layers = int(model.cfg.n_layers)
    layer_kept, width = (None, 0) if narrow is None else narrow
    n_positions = start + residual.shape[1]
    nothing = residual[:, :0].clone()
    residuals, past, states, mask_here = list[Tensor](), list[KeysValues](), dict[Site, Tensor](), mask

    def reader(site: Site) -> Callable[..., None]:
        def read(state: Tensor, hook: Any) -> None:
            states[site] = state.detach().clone()

        return read

    with attached(model, [(site.hook, reader(site)) for site in sites]):
        for layer in range(n_layers):
            residuals.append(residual if layer_kept in (None, layer) else nothing)
            if layer == layer_kept:
                residual, mask_here = residual[:, :width], None if mask is None else mask[:, :width]
            if residual.shape[1] == 0:
                past.append(keys_values(model, layer, residual))
                continue
            before = None if base is None else base.before(layer, start)
            residual, joined = run_block(model, layer, residual, before, attention_mask=mask_here)
            below = layer_kept is not None and layer < layer_kept
            past.append((joined[0][:, :0].clone(), joined[1][:, :0].clone()) if below else joined)
        residuals.append(residual if layer_kept in (None, n_layers) else nothing)
    missing = [site.hook for site in sites if site not in states]
    if missing:
        raise ModelError(f"model: nothing was run at {', '.join(missing)}.")
    return Recording(tuple(residuals), tuple(past), start, n_positions, states, mask)
