"""Settings in plain JSON: what is too large for that by its hash, and functions by name or by code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any, Final

import numpy as np
import torch

from mechstyle.models import HookedModel, Json

__all__ = ["described", "hooks_by_place"]

ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
NO_NAME: Final = ("<lambda>", "<locals>")
"""In the name of a function that many functions have."""
BY_BACKENDS: Final = ("transformers.", "transformer_lens.model_bridge.")
"""Where a bridge has the hooks from that it puts on itself on its first run."""


def described(value: Any) -> Json:
    """A setting in JSON, equal for values that do the same in two processes.

    A function of a module is its name. Lambdas, functions within functions, those of a script itself and
    objects that can be called are described by a hash as well: of their code, constants, defaults, and the
    values that they hold. What a function looks up in its module when it runs is not in it.

    Example:
        >>> described(lambda logits: logits[:, 0, 5])  # doctest: +SKIP
        '__main__.<lambda> (code 3f1c09ab5d2e8876)'
    """
    return _described(value, ())


def hooks_by_place(model: HookedModel) -> dict[str, list[Any]]:
    """The hooks that somebody has put on the model, by the name of their place; not those of backends.

    Example:
        >>> list(hooks_by_place(model))  # doctest: +SKIP
        ['blocks.1.hook_mlp_out']
    """
    modules: Any = model
    found: dict[str, list[Any]] = {}
    for name, part in modules.named_modules():
        kinds = (part._forward_pre_hooks, part._forward_hooks, part._backward_pre_hooks, part._backward_hooks)
        here = [[hook for hook in hooks.values() if _of_somebody(hook)] for hooks in kinds]
        if any(here):
            found[name] = here
    return found


def _of_somebody(hook: object) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith(BY_BACKENDS)


def _described(value: Any, within: tuple[int, ...]) -> Json:
    """The same; `within` are the objects around it, so that a circle ends."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in within:
        return "itself"
    inner = functools.partial(_described, within=(*within, id(value)))
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
        return {"type": type(value).__name__, **parts}
    if isinstance(value, type):
        return _named(value)
    if isinstance(value, CodeType):
        names = (value.co_name, value.co_names, value.co_freevars, value.co_argcount, value.co_flags)
        return [value.co_code.hex(), inner(value.co_consts), inner(names)]
    if callable(value):
        return _function(value, inner)
    return _object(value, inner)


def _function(value: Any, inner: Callable[[Any], Json]) -> Json:
    """A name, with a hash where it says too little."""
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        own = value.__module__ == "__main__" or any(mark in value.__qualname__ for mark in NO_NAME)
        if not own or not isinstance(value, FunctionType):
            return _named(value)
        parts: list[Any] = [value.__code__, value.__defaults__, value.__kwdefaults__, _held(value)]
        return f"{_named(value)} (code {_digest(inner(parts))})"
    if isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
        return f"functools.partial of {inner(value.func)} ({_digest(inner(parts))})"
    if inspect.ismethod(value):
        return f"{inner(value.__func__)} ({_digest(inner(value.__self__))})"
    if isinstance(value, torch.nn.Module) or hasattr(value, "__dict__"):
        return f"{_named(type(value))} ({_digest([inner(type(value).__call__), _object(value, inner)])})"
    return _named(value) if hasattr(value, "__qualname__") else _plain(value)


def _object(value: Any, inner: Callable[[Any], Json]) -> Json:
    """What is known of any other object: its type, and what it holds."""
    if isinstance(value, torch.nn.Module):
        # Not its other attributes: they lead to caches, and to what was computed last.
        return [_named(type(value)), _plain(value), inner(value.state_dict())]
    held = getattr(value, "__dict__", None)
    return _plain(value) if not held else [_named(type(value)), inner(held)]


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


def _hashed(value: torch.Tensor | np.ndarray[Any, Any]) -> Json:
    values = value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else value
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return {"shape": list(values.shape), "sha256": digest}


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _plain(value: Any) -> str:
    """The object's own text, without the address, which is another one in every process."""
    return ADDRESS.sub("", repr(value))


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
