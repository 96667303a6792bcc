"""Writing edits into a model's weights, stacked, and taking them back bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mechstyle.editing.weight_edit import WeightEdit, content_id
from mechstyle.errors import ModelError, WorkError
from mechstyle.models import HookedModel, active_base, fingerprint, parameter

__all__ = [
    "EditHandle",
    "active_edits",
    "active_ids",
    "apply_edits",
    "changed_by_hand",
    "put_first",
    "without_edits",
]

_LEDGER: Final = "mechstyle_active_edits"
"""Attribute of a model: handles of the edits in its weights, in the order they are summed."""
_SUMS: Final = "mechstyle_exact_sums"
"""Attribute of a model: by parameter, what the last of its edits summed up to."""
_KEPT: Final = 2
"""Sums that are kept of a parameter: one more than now, so that the last edit goes as fast as it came."""


class EditHandle:
    """An edit that is written into a model; ``undo`` takes it back, and does nothing the second time."""

    def __init__(
        self, model: HookedModel, edits: Sequence[WeightEdit], *, edit_id: str | None = None
    ) -> None:
        self._model = model
        self._edits = tuple(edits)
        self._id = edit_id
        self._parameters = tuple(dict.fromkeys(edit.parameter for edit in self._edits))

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
        return self._parameters

    @property
    def active(self) -> bool:
        """Whether the edit is in the weights now."""
        return self in active_edits(self._model)

    def deltas(self, name: str) -> Iterator[Tensor]:
        """The edit's fp64 changes of one parameter, one after the other."""
        return (edit.delta() for edit in self._edits if edit.parameter == name)

    def undo(self) -> None:
        """Take the edit out of the weights; other edits stay, as if this one had never been applied."""
        if self.active:
            remaining = tuple(handle for handle in active_edits(self._model) if handle is not self)
            _rewrite(self._model, remaining, self.parameters)


@dataclass(frozen=True, eq=False)
class _Sum:
    """A parameter's base plus the changes of these handles, in fp64 on the CPU; nobody writes into it."""

    handles: tuple[EditHandle, ...]
    value: Tensor


_Sums = Mapping[str, tuple[_Sum, ...]]


def active_edits(model: HookedModel) -> tuple[EditHandle, ...]:
    """The edits that are in a model's weights, in the order they are summed."""
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

    The work does not grow with the number of active edits: the exact sum of a parameter is kept. That takes
    two fp64 copies of every edited parameter, on the CPU.

    Args:
        edit_id: name of the edit's contents; None computes it when it is asked for.

    Raises:
        ModelError: a parameter is absent or has another shape; nothing was written.
        WorkError: the sum overflows the parameter's dtype; nothing was written.

    >>> handle = apply_edits(model, edit.edits)  # doctest: +SKIP
    >>> handle.undo()  # doctest: +SKIP
    """
    _require_fitting(model, edits)
    handle = EditHandle(model, edits, edit_id=edit_id)
    _rewrite(model, (*active_edits(model), handle), handle.parameters)
    return handle


def put_first(
    model: HookedModel, handles: Sequence[EditHandle], *, instead_of: Sequence[EditHandle] = ()
) -> None:
    """Let the sum of a model's edits begin with these handles; other active edits follow in their order.

    Args:
        instead_of: edits that are taken out; those that are in ``handles`` too stay.

    Raises:
        ModelError, WorkError: as ``apply_edits``.

    >>> put_first(model, [second, first], instead_of=[first, second])  # doctest: +SKIP
    """
    old = active_edits(model)
    for handle in {*handles}.difference(old):
        _require_fitting(model, handle.edits)
    gone = {*handles, *instead_of}
    new = (*handles, *(handle for handle in old if handle not in gone))
    same = next(
        (place for place, (one, other) in enumerate(zip(old, new, strict=False)) if one is not other),
        min(len(old), len(new)),
    )
    moved = (*old[same:], *new[same:])
    _rewrite(model, new, dict.fromkeys(name for handle in moved for name in handle.parameters))


def changed_by_hand(model: HookedModel) -> tuple[str, ...]:
    """Edited parameters whose weights are no longer what the edits came to.

    >>> changed_by_hand(model)  # doctest: +SKIP
    ()
    """
    found = []
    for name, base in active_base(model).items():
        written = _rounded(base, _sums(model).get(name, ()), name)
        live = parameter(model, name).detach()
        if not torch.equal(live, written.to(live)):
            found.append(name)
    return tuple(found)


@contextmanager
def without_edits(model: HookedModel) -> Iterator[None]:
    """Take every active edit out for the length of a block and put the very bits back afterwards.

    Edits that are applied inside must be undone inside.

    >>> with without_edits(model):  # doctest: +SKIP
    ...     perplexity(model, texts)
    """
    base, handles, sums = dict(active_base(model)), active_edits(model), _sums(model)
    live = {name: parameter(model, name) for name in base}
    edited = {name: tensor.detach().clone() for name, tensor in live.items()}
    with ExitStack() as back:
        back.callback(_record, model, base, handles, sums)
        for name, tensor in live.items():
            back.callback(_write, tensor, edited[name])
        for name, tensor in live.items():
            _write(tensor, base[name])
        _record(model, {}, (), {})
        yield


def _require_fitting(model: HookedModel, edits: Sequence[WeightEdit]) -> None:
    for edit in edits:
        found = parameter(model, edit.parameter)
        if (found.numel() // found.shape[-1], found.shape[-1]) != edit.shape:
            raise ModelError(
                f"model: expected {edit.parameter} of shape {list(edit.shape)}, as in the edit, "
                f"got {list(found.shape)}; the edit belongs to another model."
            )


def _rewrite(model: HookedModel, handles: tuple[EditHandle, ...], names: Iterable[str]) -> None:
    """Set the named parameters to their base plus the handles' changes; on any failure all is as before."""
    live = {name: parameter(model, name) for name in names}
    old_weights = {name: tensor.detach().clone() for name, tensor in live.items()}
    old_base, old_handles, old_sums = dict(active_base(model)), active_edits(model), _sums(model)
    base = {**old_weights, **old_base}
    changing = {name: tuple(handle for handle in handles if name in handle.parameters) for name in live}
    sums = {name: _summed(base[name], changing[name], name, old_sums.get(name, ())) for name in live}
    new_weights = {name: _rounded(base[name], sums[name], name) for name in live}
    covered = {name for handle in handles for name in handle.parameters}
    with ExitStack() as on_failure:
        on_failure.callback(_record, model, old_base, old_handles, old_sums)
        for name, tensor in live.items():
            on_failure.callback(_write, tensor, old_weights[name])
        for name, tensor in live.items():
            _write(tensor, new_weights[name])
        new_base = {name: weights for name, weights in base.items() if name in covered}
        kept = {name: found for name, found in {**old_sums, **sums}.items() if name in covered}
        _record(model, new_base, handles, kept)
        on_failure.pop_all()


def _summed(
    base: Tensor, handles: tuple[EditHandle, ...], name: str, known: Sequence[_Sum]
) -> tuple[_Sum, ...]:
    """The last sums on the way to all handles' changes, in fp64 in order, going on from what is known."""
    found = [one for one in known if one.handles == handles[: len(one.handles)]]
    start = found[-1] if found else _Sum((), base.to("cpu", torch.float64))
    value = start.value
    for count in range(len(start.handles) + 1, len(handles) + 1):
        # A sum that is kept is not written into.
        exact = value.clone() if value is start.value or count > len(handles) + 1 - _KEPT else value
        for delta in handles[count - 1].deltas(name):
            exact += delta.reshape(exact.shape)
        value = exact
        if count > len(handles) - _KEPT:
            found.append(_Sum(handles[:count], value))
    return tuple(found[-_KEPT:])


def _rounded(base: Tensor, sums: Sequence[_Sum], name: str) -> Tensor:
    """The last sum, rounded once; without any the base itself."""
    if not sums:
        return base
    edited = sums[-1].value.to(base.dtype)
    if not bool(torch.isfinite(edited).all()):
        raise WorkError(
            f"edit: {name} plus the edit overflows {str(base.dtype).removeprefix('torch.')}; "
            "scale the edit down, or load the model in a wider dtype."
        )
    return edited


def _write(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(value)


def _sums(model: HookedModel) -> _Sums:
    sums: _Sums = getattr(model, _SUMS, {})
    return sums


def _record(
    model: HookedModel, base: Mapping[str, Tensor], handles: tuple[EditHandle, ...], sums: _Sums
) -> None:
    known = active_base(model)
    known.clear()
    known.update(base)
    setattr(model, _LEDGER, handles)
    setattr(model, _SUMS, sums)
