"""Writing edits into a model's weights, stacked, and taking them back bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from mechstyle.editing.weight_edit import WeightEdit, content_id
from mechstyle.errors import ModelError, WorkError
from mechstyle.models import HookedModel, active_base, fingerprint, parameter

__all__ = ["EditHandle", "active_edits", "active_ids", "apply_edits"]

_LEDGER = "mechstyle_active_edits"
"""Attribute of a model: handles of the edits in its weights, in the order they were applied."""


class EditHandle:
    """An edit that is written into a model; ``undo`` takes it back, and does nothing the second time."""

    def __init__(
        self, model: HookedModel, edits: Sequence[WeightEdit], *, edit_id: str | None = None
    ) -> None:
        self._model = model
        self._edits = tuple(edits)
        self._id = edit_id

    @property
    def edits(self) -> tuple[WeightEdit, ...]:
        """What was written, parameter by parameter, with the keys where the editor knew them."""
        return self._edits

    @property
    def id(self) -> str:
        """Name of the edit's contents, as ``EditSet.id``."""
        if self._id is None:
            self._id = content_id(self._edits, fingerprint(self._model))
        return self._id

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the edit changes."""
        return tuple(dict.fromkeys(edit.parameter for edit in self._edits))

    @property
    def active(self) -> bool:
        """Whether the edit is in the weights now."""
        return self in active_edits(self._model)

    def deltas(self, name: str) -> list[Tensor]:
        """The edit's fp64 changes of one parameter."""
        return [edit.delta() for edit in self._edits if edit.parameter == name]

    def undo(self) -> None:
        """Take the edit out of the weights; other edits stay, as if this one had never been applied."""
        if self.active:
            remaining = tuple(handle for handle in active_edits(self._model) if handle is not self)
            _rewrite(self._model, remaining, self.parameters)


def active_edits(model: HookedModel) -> tuple[EditHandle, ...]:
    """The edits that are in a model's weights, in the order they were applied."""
    handles: tuple[EditHandle, ...] = getattr(model, _LEDGER, ())
    return handles


def active_ids(model: HookedModel) -> tuple[str, ...]:
    """The ``EditSet.id`` of each edit that is in a model's weights, in the order they are summed.

    >>> active_ids(model)  # doctest: +SKIP
    ('5f0c...', '91ab...')
    """
    return tuple(handle.id for handle in active_edits(model))


def apply_edits(model: HookedModel, edits: Sequence[WeightEdit], *, edit_id: str | None = None) -> EditHandle:
    """Write edits into the named parameters, on top of the edits that are active.

    Args:
        edit_id: name of the edit's contents; None computes it when it is asked for.

    Raises:
        ModelError: a parameter is absent or has another shape; nothing was written.
        WorkError: the sum overflows the parameter's dtype; nothing was written.

    >>> handle = apply_edits(model, edit.edits)  # doctest: +SKIP
    >>> handle.undo()  # doctest: +SKIP
    """
    for edit in edits:
        found = parameter(model, edit.parameter)
        if (found.numel() // found.shape[-1], found.shape[-1]) != edit.shape:
            raise ModelError(
                f"model: expected {edit.parameter} of shape {list(edit.shape)}, as in the edit, "
                f"got {list(found.shape)}; the edit belongs to another model."
            )
    handle = EditHandle(model, edits, edit_id=edit_id)
    _rewrite(model, (*active_edits(model), handle), handle.parameters)
    return handle


def _rewrite(model: HookedModel, handles: tuple[EditHandle, ...], names: Iterable[str]) -> None:
    """Set the named parameters to their base plus the handles' changes; on any failure all is as before."""
    live = {name: parameter(model, name) for name in names}
    old_weights = {name: tensor.detach().clone() for name, tensor in live.items()}
    old_base, old_handles = dict(active_base(model)), active_edits(model)
    base = {**old_weights, **old_base}
    new_weights = {name: _edited(base[name], handles, name) for name in live}
    covered = {name for handle in handles for name in handle.parameters}
    with ExitStack() as on_failure:
        on_failure.callback(_record, model, old_base, old_handles)
        for name, tensor in live.items():
            on_failure.callback(_write, tensor, old_weights[name])
        for name, tensor in live.items():
            _write(tensor, new_weights[name])
        _record(model, {name: weights for name, weights in base.items() if name in covered}, handles)
        on_failure.pop_all()


def _edited(base: Tensor, handles: Sequence[EditHandle], name: str) -> Tensor:
    """The base plus every change, summed in fp64 in order and rounded once; without any the base itself."""
    deltas = [delta for handle in handles for delta in handle.deltas(name)]
    if not deltas:
        return base
    exact = base.to("cpu", torch.float64)
    for delta in deltas:
        exact = exact + delta.reshape(exact.shape)
    edited = exact.to(base.dtype)
    if not bool(torch.isfinite(edited).all()):
        raise WorkError(
            f"edit: {name} plus the edit overflows {str(base.dtype).removeprefix('torch.')}; "
            "scale the edit down, or load the model in a wider dtype."
        )
    return edited


def _write(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(value)


def _record(model: HookedModel, base: Mapping[str, Tensor], handles: tuple[EditHandle, ...]) -> None:
    known = active_base(model)
    known.clear()
    known.update(base)
    setattr(model, _LEDGER, handles)
