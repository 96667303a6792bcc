"""What an editor returns: changes of parameters and their provenance, to apply or to save."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.application import EditHandle, apply_edits
from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.editing.weight_edit import WeightEdit, content_id
from mechstyle.errors import FileError, InputError, ModelError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, fingerprint, require_editable

__all__ = ["EditSet", "WeightEdit", "load_edit", "require_own_model"]


@dataclass(frozen=True, eq=False)
class EditSet:
    """What an editor returns: changes of one or several parameters, for one model.

    Args:
        fingerprint: of the model that the edit was computed for; checked when it is applied.
        provenance: method, settings, seeds and versions, as JSON values.
        requests: what was asked for.

    >>> with edit.applied(model):  # doctest: +SKIP
    ...     evaluate(model, edit.requests)
    """

    edits: tuple[WeightEdit, ...]
    fingerprint: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[EditRequest, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that change, in order and without repeats."""
        return tuple(dict.fromkeys(edit.parameter for edit in self.edits))

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of the changes and of the model they belong to: equal edits have equal names."""
        return content_id(self.edits, self.fingerprint)

    def delta(self, parameter: str) -> Float[Tensor, "d_in d_out"]:
        """Return the whole change of one parameter, fp64 on the CPU.

        Raises:
            InputError: this edit does not change that parameter.
        """
        found = [edit for edit in self.edits if edit.parameter == parameter]
        if not found:
            raise InputError(f"parameter: expected one of {', '.join(self.parameters)}, got {parameter!r}.")
        total = found[0].delta()
        for edit in found[1:]:
            total += edit.delta()
        return total

    def scaled(self, factor: float) -> EditSet:
        """Return the edit multiplied by a number, as a new edit whose provenance says so."""
        changed = {**self.provenance, "scaled": factor * float(self.provenance.get("scaled", 1.0))}
        return replace(self, edits=tuple(edit.scaled(factor) for edit in self.edits), provenance=changed)

    def negated(self) -> EditSet:
        """Return the opposite edit."""
        return self.scaled(-1.0)

    def apply_(self, model: HookedModel) -> EditHandle:
        """Write the edit into the weights until ``handle.undo()``; all is checked before the first write.

        Edits stack: the weights are always the original ones plus the active edits in the order they were
        applied, summed in fp64 and rounded once, so they may be undone in any order. Undoing the last one
        copies the original weights back bit for bit. When writing fails, all weights are as before.

        Raises:
            ModelError: another model (by fingerprint), a processed model, or parameters that do not fit.
            WorkError: the changed weights overflow the model's dtype.
        """
        require_own_model(self, model)
        return apply_edits(model, self.edits, edit_id=self.id)

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[EditHandle]:
        """Apply the edit for the time of a ``with`` block and undo it bit for bit, whatever happens inside.

        Raises:
            ModelError: as ``apply_``.
        """
        handle = self.apply_(model)
        try:
            yield handle
        finally:
            handle.undo()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file: factors in fp64, requests, provenance, fingerprint and a content hash.

        Raises:
            FileError: the file cannot be written; an older file is left as it was.
        """
        tensors = {}
        for index, edit in enumerate(self.edits):
            tensors[f"{index}.left"], tensors[f"{index}.right"] = edit.left, edit.right
            if edit.keys is not None:
                tensors[f"{index}.keys"] = edit.keys
        header = {
            "parameters": [edit.parameter for edit in self.edits],
            "fingerprint": self.fingerprint,
            "provenance": dict(self.provenance),
            "requests": [request.to_dict() for request in self.requests],
        }
        return save_tensors(path, "edit", tensors, header)


def require_own_model(edit: EditSet, model: HookedModel) -> None:
    """Make sure that a model is the one an edit was computed for, and that it can be edited.

    Raises:
        ModelError: another model (by fingerprint), or a processed one.

    >>> require_own_model(edit, model)  # doctest: +SKIP
    """
    require_editable(model)
    found = fingerprint(model)
    if found != edit.fingerprint:
        raise ModelError(
            f"model: expected the one it was computed for (fingerprint {edit.fingerprint[:12]}), "
            f"got another ({found[:12]}); load that model, or compute the edit again for this one."
        )


def load_edit(path: str | os.PathLike[str]) -> EditSet:
    """Read an edit that ``EditSet.save`` wrote; the model is checked when the edit is applied.

    Raises:
        FileError: the file is missing, cut short, changed, or not an edit.

    >>> load_edit("edit.safetensors").requests  # doctest: +SKIP
    """
    tensors, header = load_tensors(path, "edit")
    try:
        return EditSet(
            edits=tuple(
                WeightEdit(
                    name, tensors[f"{index}.left"], tensors[f"{index}.right"], tensors.get(f"{index}.keys")
                )
                for index, name in enumerate(header["parameters"])
            ),
            fingerprint=header["fingerprint"],
            provenance=header["provenance"],
            requests=tuple(EditRequest.from_dict(request) for request in header["requests"]),
        )
    except (KeyError, InputError) as error:
        raise FileError(f"cannot read {path}: its edit is incomplete ({error}). Save it again.") from error
