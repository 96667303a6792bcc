"""The edits that an evaluation is about: one for all requests, or one for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from mechstyle.editing.edit import EditSet
from mechstyle.editing.memory import MemoryEdit
from mechstyle.errors import InputError, ModelError
from mechstyle.models import HookedModel, require_editable

__all__ = ["AnyEdit", "BosMismatchWarning", "Edits", "check_edits", "edit_record", "is_one", "listed_edits"]

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


def listed_edits(edits: Edits | None, n_requests: int) -> list[AnyEdit]:
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
        raise InputError(f"edits: expected an EditSet or a list of them, got {type(edits).__name__}.")
    for index, edit in enumerate(edits):
        if not isinstance(edit, _ONE):
            raise InputError(f"edits[{index}]: expected an EditSet, got {type(edit).__name__}.")
    if len(edits) != n_requests:
        raise InputError(
            f"edits: expected one for each of the {n_requests} requests, in their order, got {len(edits)}; "
            "to score one edit on all requests pass the EditSet itself, not a list."
        )
    return list(edits)


def check_edits(model: HookedModel, edits: Sequence[AnyEdit], fingerprint: str, *, bos: bool) -> None:
    """Refuse edits of another model before anything is run, and warn of another ``prepend_bos``.

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
                f"edits[{index}]: computed for another model (fingerprint {edit.fingerprint[:12]}) than the "
                f"one given ({fingerprint[:12]}); load that model, or compute the edit again for this one."
            )
    made = {edit.provenance.get("settings", {}).get("prepend_bos", bos) for edit in edits}
    if made - {bos}:
        warnings.warn(
            f"edits: made with prepend_bos={not bos}, but scored with prepend_bos={bos}; "
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
