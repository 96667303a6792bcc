"""The edits that an evaluation is about: one for all requests, or one for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from mechstyle.editing.edit import EditSet
from mechstyle.editing.memory import MemoryEdit
from mechstyle.errors import InputError, ModelError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, require_editable

__all__ = [
    "AnyEdit",
    "BosMismatchWarning",
    "Edits",
    "check_edits",
    "edit_record",
    "is_one",
    "listed_edits",
    "require_own_requests",
]

AnyEdit: TypeAlias = EditSet | MemoryEdit
"""An edit of the weights, or one that leaves them alone."""
Edits: TypeAlias = AnyEdit | Sequence[AnyEdit]
_ONE: Final = (EditSet, MemoryEdit)


class BosMismatchWarning(UserWarning):
    """An edit was made with one ``prepend_bos`` and is scored with another."""


def is_one(edits: Edits | None) -> bool:
    """Whether this is one edit, for all requests.

    >>> is_one(None)
    False
    """
    return isinstance(edits, _ONE)


def listed_edits(edits: Edits | None, n_requests: int, *, name: str = "edits") -> list[AnyEdit]:
    """The edits one by one.

    Raises:
        InputError: something else than edits, or a list of another length than the requests.

    >>> listed_edits(None, 3)
    []
    """
    if edits is None:
        return []
    if isinstance(edits, _ONE):
        return [edits]
    if isinstance(edits, str) or not isinstance(edits, Sequence):
        raise InputError(f"{name}: expected an EditSet or a list of them, got {type(edits).__name__}.")
    for index, edit in enumerate(edits):
        if not isinstance(edit, _ONE):
            raise InputError(f"{name}[{index}]: expected an EditSet, got {type(edit).__name__}.")
    if len(edits) != n_requests:
        raise InputError(
            f"{name}: expected one for each of the {n_requests} requests, in their order, got {len(edits)}; "
            "to score one edit on all requests pass the EditSet itself, not a list."
        )
    return list(edits)


def require_own_requests(
    edits: Sequence[AnyEdit], requests: Sequence[EditRequest], *, name: str = "edits"
) -> None:
    """Refuse edits, one for each request, that were made for another one; those that name none are taken.

    Raises:
        InputError: an edit does not hold its request's prompt and new target.

    >>> require_own_requests([edit], [request])  # doctest: +SKIP
    """
    for index, (edit, request) in enumerate(zip(edits, requests, strict=True)):
        wanted = request.fact.prompt, request.new_target
        held = [(one.fact.prompt, one.new_target) for one in edit.requests]
        if held and wanted not in held:
            raise InputError(
                f"{name}[{index}]: made for {held[0][0]!r} -> {held[0][1]!r}, but requests[{index}] is "
                f"{wanted[0]!r} -> {wanted[1]!r}; give the edits in the order of their requests."
            )


def check_edits(
    model: HookedModel, edits: Sequence[AnyEdit], fingerprint: str, *, bos: bool, name: str = "edits"
) -> None:
    """Refuse edits of another model before anything is run, and warn of another ``prepend_bos``.

    Args:
        name: of the edits, for errors.

    Raises:
        ModelError: an edit was computed for another model, or the model cannot be edited.

    Warns:
        BosMismatchWarning: an edit was made with another ``prepend_bos``.

    >>> check_edits(model, [edit], fingerprint(model), bos=False)  # doctest: +SKIP
    """
    if any(isinstance(edit, EditSet) for edit in edits):
        require_editable(model)
    for index, edit in enumerate(edits):
        if edit.fingerprint != fingerprint:
            raise ModelError(
                f"{name}[{index}]: computed for another model (fingerprint {edit.fingerprint[:12]}) than the "
                f"one given ({fingerprint[:12]}); load that model, or compute the edit again for this one."
            )
    made = {edit.provenance.get("settings", {}).get("prepend_bos", bos) for edit in edits}
    if made - {bos}:
        warnings.warn(
            f"{name}: made with prepend_bos={not bos}, but scored with prepend_bos={bos}; "
            f"pass prepend_bos={not bos} to evaluate.",
            BosMismatchWarning,
            stacklevel=3,
        )


def edit_record(edits: Edits | None) -> dict[str, Any] | None:
    """For provenance: how edits were applied, and the settings that all of them share.

    >>> edit_record(None) is None
    True
    """
    if edits is None:
        return None
    listed = [edits] if isinstance(edits, _ONE) else list(edits)
    settings = [dict(edit.provenance.get("settings", {})) for edit in listed]
    common = {
        key: value for key, value in settings[0].items() if all(one.get(key) == value for one in settings)
    }
    applied = "once for all requests" if isinstance(edits, _ONE) else "each for its own request"
    return {"applied": applied, "number": len(listed), "settings": common}
