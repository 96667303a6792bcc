"""Settings in plain JSON: what is too large for that by its hash, and functions by name or by code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np
import torch

from mechstyle.errors import InputError
from mechstyle.plain_json import Json

__all__ = ["described"]

ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
NO_NAME: Final = ("<lambda>", "<locals>")
"""In the name of a function that many functions have."""
DATA: Final = (bool, int, float, str, bytes, re.Pattern, tuple, list, dict, set, frozenset)
"""What a function may look up in its module and is told with it."""


def described(value: Any, *, exact: bool = False) -> Json:
    """A setting in JSON, equal for values that do the same in two processes.

    A function of a module is its name. Lambdas, functions within functions, those of a script itself and
    objects that can be called are described by a hash as well: of their code, constants, defaults, and the
    values that they hold. What a function looks up in its module when it runs is not in it.

    Args:
        exact: functions of modules too are described by their code, all of them with the data and functions
            that they name in their own module, and objects with the methods of their class. What is imported
            from elsewhere still is a name.

    Raises:
        InputError: ``exact``, and there is something whose content cannot be seen.

    Example:
        >>> described(lambda logits: logits[:, 0, 5])  # doctest: +SKIP
        '__main__.<lambda> (code 3f1c09ab5d2e8876)'
    """
    return _Describing(exact)(value)


@dataclass(frozen=True)
class _Describing:
    """One description.

    Args:
        within: the objects around the one that is described, so that a circle ends.
        told: functions that were described by their code already, and now are names.
    """

    exact: bool
    within: tuple[int, ...] = ()
    told: set[int] = field(default_factory=set)

    def __call__(self, value: Any) -> Json:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if id(value) in self.within:
            return "itself"
        inner = replace(self, within=(*self.within, id(value)))
        if isinstance(value, Mapping):
            return {str(key): inner(one) for key, one in value.items()}
        if isinstance(value, (set, frozenset)):
            return sorted((inner(one) for one in value), key=json.dumps)
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            return [inner(one) for one in value]
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return _hashed(value)
        if is_dataclass(value) and not isinstance(value, type):
            parts = {one.name: inner(getattr(value, one.name)) for one in fields(value)}
            parts |= dict(zip(("()",), inner._methods(value), strict=False))
            return {"type": type(value).__name__, **parts}
        if isinstance(value, type):
            return _named(value)
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, re.Pattern):
            return [value.pattern if isinstance(value.pattern, str) else value.pattern.hex(), value.flags]
        if isinstance(value, CodeType):
            names = (value.co_name, value.co_names, value.co_freevars, value.co_argcount, value.co_flags)
            return [value.co_code.hex(), inner(value.co_consts), inner(names)]
        return inner._function(value) if callable(value) else inner._object(value)

    def _function(self, value: Any) -> Json:
        """A name, with a hash where it says too little."""
        if isinstance(value, FunctionType):
            own = value.__module__ == "__main__" or any(mark in value.__qualname__ for mark in NO_NAME)
            if not (own or self.exact) or (self.exact and id(value) in self.told):
                return _named(value)
            self.told.add(id(value))
            parts: list[Any] = [value.__code__, value.__defaults__, value.__kwdefaults__, _held(value)]
            if self.exact:
                parts.append(dict(_looked_up(value)))
            return f"{_named(value)} (code {_digest(self(parts))})"
        if isinstance(value, functools.partial):
            parts = [value.func, value.args, value.keywords]
            return f"functools.partial of {self(value.func)} ({_digest(self(parts))})"
        if inspect.ismethod(value):
            return f"{self(value.__func__)} ({_digest(self(value.__self__))})"
        holder = getattr(value, "__self__", None)
        if holder is not None and not isinstance(holder, ModuleType):  # a method of a type written in C
            return f"{_named(value)} ({_digest(self(holder))})"
        if isinstance(value, BuiltinFunctionType):
            return _named(value)
        if isinstance(value, torch.nn.Module) or _has_parts(value):
            return f"{_named(type(value))} ({_digest([self(type(value).__call__), self._object(value)])})"
        return _named(value) if hasattr(value, "__qualname__") else self._plain(value)

    def _object(self, value: Any) -> Json:
        """What is known of any other object: its type, and what it holds."""
        if isinstance(value, torch.nn.Module):
            # Not its other attributes: they lead to caches, and to what was computed last.
            return [_named(type(value)), self._plain(value), self(value.state_dict()), *self._methods(value)]
        if not _has_parts(value):
            return self._plain(value)
        slots = {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
        held = {**slots, **getattr(value, "__dict__", {})}
        return [_named(type(value)), self(held), *self._methods(value)]

    def _methods(self, value: Any) -> list[Json]:
        """The functions of the object's class, where all is to be told."""
        own = {name: one for name, one in vars(type(value)).items() if isinstance(one, FunctionType)}
        return [self(own)] if self.exact else []

    def _plain(self, value: Any) -> str:
        """The object's own text, without the address, which is another one in every process."""
        text = repr(value)
        if self.exact and ADDRESS.search(text):
            raise InputError(f"expected something whose content can be seen, got {text}.")
        return ADDRESS.sub("", text)


def _has_parts(value: Any) -> bool:
    return bool(getattr(value, "__dict__", None)) or bool(_slots(value)) or _is_written(type(value))


def _is_written(kind: type) -> bool:
    """Whether a class has methods in Python."""
    return any(isinstance(one, FunctionType) for one in vars(kind).values())


def _slots(value: Any) -> list[str]:
    found: list[str] = []
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _held(function: FunctionType) -> list[Any]:
    """The values of a closure; a variable that has none yet is left out."""
    cells = function.__closure__ or ()
    found = []
    for cell in cells:
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue
    return found


def _looked_up(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Data, and functions of the same module, that a function names."""
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        beside = isinstance(value, FunctionType) and value.__module__ == function.__module__
        if beside or isinstance(value, DATA):
            yield name, value


def _names(code: CodeType) -> set[str]:
    """What a function and those within it name."""
    inside = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(_names, inside))


def _hashed(value: torch.Tensor | np.ndarray[Any, Any]) -> Json:
    values = value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else value
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return {"shape": list(values.shape), "sha256": digest}


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
