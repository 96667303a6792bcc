"""Which batches of a call are in a ledger already, so that a broken-off call can go on."""

from __future__ import annotations

import functools
import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Final

from torch import Tensor

from mechstyle.editing.edit import EditSet
from mechstyle.errors import InputError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel

__all__ = [
    "Editor",
    "Held",
    "LedgerWarning",
    "batches",
    "batches_done",
    "described",
    "planned",
    "unknown_part",
]

Editor = Callable[[HookedModel, Sequence[EditRequest]], EditSet]
"""Computes an edit for requests and leaves the model unchanged, as ``functools.partial(memit, ...)`` does."""

_LONG: Final = 400
"""Characters of an editor's words that are kept."""

Batch = tuple[EditRequest, ...]


class LedgerWarning(UserWarning):
    """What was asked for is in the ledger, but not in the weights."""


def batches(requests: Sequence[EditRequest], batch_size: int | None) -> list[Batch]:
    """Requests in their order, ``batch_size`` at a time; None is all at once.

    >>> [len(batch) for batch in batches([request] * 5, 2)]  # doctest: +SKIP
    [2, 2, 1]
    """
    size = len(requests) if batch_size is None else batch_size
    return [tuple(requests[start : start + size]) for start in range(0, len(requests), size)]


@dataclass(frozen=True)
class Held:
    """An entry that may hold a batch already.

    Args:
        editor: who wrote it, as of ``described``.
    """

    number: int
    requests: Batch
    editor: str
    active: bool


def batches_done(wanted: Sequence[Batch], entries: Sequence[Held], editor: str) -> list[int | None]:
    """For each wanted batch the number of the entry that holds it already; None where it is to be written.

    An entry holds one batch. One that is switched off counts where the same editor wrote it.

    Args:
        entries: those that ``Ledger.write`` wrote and that were not refused, in order.
        editor: who is to write now, as of ``described``.

    Raises:
        InputError: an active entry holds one of them, but another editor wrote it.

    >>> batches_done([("a",), ("b",)], [Held(7, ("b",), "rome", True)], "rome")
    [None, 7]
    """
    free = sorted(entries, key=lambda entry: (entry.editor != editor, not entry.active))
    found: list[int | None] = []
    for batch in wanted:
        held = next((entry for entry in free if entry.requests == batch), None)
        if held is None or (held.editor != editor and not held.active):
            found.append(None)
            continue
        if held.editor != editor:
            raise InputError(
                f"requests: entry {held.number} of the ledger holds {len(batch)} of them already and was "
                f"written by {held.editor}, not by {editor}; remove that entry or switch it off, or add new "
                "edits with ledger.add."
            )
        free.remove(held)
        found.append(held.number)
    return found


def planned(
    wanted: Sequence[Batch], entries: Sequence[Held], editor: object, editor_name: str | None
) -> tuple[str, list[int | None]]:
    """What a call's editor is called, and ``batches_done``.

    Raises:
        InputError: as ``batches_done``, or entries hold some batches and the editor cannot be told apart.

    Warns:
        LedgerWarning: entries that hold some of the batches are switched off.

    >>> planned([("a",)], [Held(7, ("a",), "mine", True)], print, "mine")
    ('mine', [7])
    """
    if editor_name is not None and not (isinstance(editor_name, str) and editor_name):
        raise InputError(f"editor_name: expected some text or None, got {editor_name!r}.")
    unknown = unknown_part(editor) if editor_name is None else None
    if unknown is not None and any(entry.requests in wanted for entry in entries):
        raise InputError(
            f"editor: the ledger holds some of the requests, and {unknown} cannot be told from another "
            "editor of that name; pass functools.partial of a named function, or editor_name=."
        )
    words = editor_name or described(editor)
    done = batches_done(wanted, entries, words)
    off = [str(entry.number) for entry in entries if entry.number in done and not entry.active]
    if off:
        warnings.warn(
            f"ledger: entries that hold some of the requests are switched off: {', '.join(off)}; switch them "
            "on with toggle, or remove them to write those requests again.",
            LedgerWarning,
            stacklevel=3,
        )
    return words, done


def unknown_part(editor: object) -> str | None:
    """What in an editor cannot be told from another one by its words; None when all can.

    Such are lambdas, functions within functions, methods and objects that are called and may change.

    >>> unknown_part(functools.partial(sorted, key=lambda one: one))
    'mechstyle.editing.ledger_batches.<lambda>'
    """
    if isinstance(editor, functools.partial):
        parts = (editor.func, *editor.args, *editor.keywords.values())
        return next(filter(None, map(unknown_part, parts)), None)
    if not callable(editor) or isinstance(editor, type):
        return None
    name = getattr(editor, "__qualname__", None)
    if name is None:
        frozen = is_dataclass(editor) and getattr(type(editor), "__dataclass_params__").frozen  # noqa: B009
        return None if frozen else type(editor).__name__
    bound = inspect.ismethod(editor) and not isinstance(editor.__self__, type)
    return f"{editor.__module__}.{name}" if bound or "<" in name else None


def described(editor: object) -> str:
    """An editor and its arguments in words: tensors by a hash of their numbers, other objects by their kind.

    >>> described(functools.partial(sorted, key=abs, reverse=True))
    'builtins.sorted(key=builtins.abs, reverse=True)'
    """
    text = _words(editor)
    if len(text) <= _LONG:
        return text
    return f"{text[:_LONG]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"


def _words(value: object) -> str:
    if isinstance(value, functools.partial):
        parts = [_words(one) for one in value.args]
        parts += [f"{name}={_words(one)}" for name, one in sorted(value.keywords.items())]
        return f"{_words(value.func)}({', '.join(parts)})"
    if value is None or isinstance(value, str | int | float | bool):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_words(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple | range):
        return f"[{', '.join(_words(one) for one in value)}]"
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().double().contiguous().numpy().tobytes()
        return f"Tensor{list(value.shape)} {hashlib.sha256(numbers).hexdigest()[:12]}"
    # Data is told by its contents; what may change, by its kind alone.
    if is_dataclass(value) and getattr(type(value), "__dataclass_params__").frozen:  # noqa: B009
        fields_of = ", ".join(f"{one.name}={_words(getattr(value, one.name))}" for one in fields(value))
        return f"{type(value).__name__}({fields_of})"
    name = getattr(value, "__qualname__", None)
    return type(value).__name__ if name is None else f"{value.__module__}.{name}"
