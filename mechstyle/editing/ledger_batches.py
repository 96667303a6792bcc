"""Which batches of a call are in a ledger already, so that a broken-off call can go on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Final

from torch import Tensor

from mechstyle.editing.edit import EditSet
from mechstyle.errors import InputError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel

__all__ = ["Editor", "batches", "batches_done", "described"]

Editor = Callable[[HookedModel, Sequence[EditRequest]], EditSet]
"""Computes an edit for requests and leaves the model unchanged, as ``functools.partial(memit, ...)`` does."""

_LONG: Final = 400
"""Characters of an editor's words that are kept."""

Batch = tuple[EditRequest, ...]


def batches(requests: Sequence[EditRequest], batch_size: int | None) -> list[Batch]:
    """Requests in their order, ``batch_size`` at a time; None is all at once.

    >>> [len(batch) for batch in batches([request] * 5, 2)]  # doctest: +SKIP
    [2, 2, 1]
    """
    size = len(requests) if batch_size is None else batch_size
    return [tuple(requests[start : start + size]) for start in range(0, len(requests), size)]


def batches_done(wanted: Sequence[Batch], last: Sequence[tuple[Batch, str | None]], editor: str) -> int:
    """How many of the wanted batches a ledger ends with.

    Args:
        last: requests and editor of each entry that was not refused, in order; without an editor it was
            not written by a call.
        editor: who is to write now, as of ``described``.

    Raises:
        InputError: it ends with them, but another editor wrote them.

    >>> batches_done([("a",), ("b",)], [(("x",), "rome"), (("a",), "rome")], "rome")
    1
    """
    for count in range(min(len(wanted), len(last)), 0, -1):
        ending = last[len(last) - count :]
        others = [other for _, other in ending if other != editor]
        if None in others or [requests for requests, _ in ending] != list(wanted[:count]):
            continue
        if others:
            raise InputError(
                f"requests: the ledger ends with {count} of their batches, written by {others[0]}, not by "
                f"{editor}; remove those entries, or add new edits of the same requests with ledger.add."
            )
        return count
    return 0


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
