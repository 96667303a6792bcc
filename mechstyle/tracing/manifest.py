"""What a folder of traces says about itself: the model, the tracer with its settings, and the facts."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mechstyle import __version__
from mechstyle.described import described
from mechstyle.errors import FileError, InputError
from mechstyle.facts import Fact
from mechstyle.files import atomic_write
from mechstyle.hooks import hooks_by_place
from mechstyle.models import HookedModel, edited_weights, fingerprint

__all__ = ["Line", "Manifest", "options_of", "settings_of"]

KIND: Final = "mechstyle traces"
IMMATERIAL: Final = ("batch_size", "engine", "progress")
"""Options that change how a trace is computed, and its values by rounding at most."""


@dataclass(frozen=True)
class Line:
    """What became of one fact.

    Attributes:
        file: name of the trace in the folder; it may not be there yet.
        reason: why the fact was skipped, in a few words; None when it was not.
        detail: the same with everything that is known.
    """

    fact: Fact
    file: str | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The head of a folder of traces; `settings` must agree when a folder is used again.

    Attributes:
        settings: fingerprint, number format, edits and hooks of the model, mechstyle's version, the tracer
            and its options.
        lines: one for each fact.
    """

    NAME: ClassVar = "manifest.json"

    settings: Mapping[str, Any]
    lines: tuple[Line, ...]

    def write(self, folder: Path) -> None:
        """Write `manifest.json`, whole or not at all.

        Raises:
            FileError: it cannot be written.
        """
        lines = [{**asdict(line), "fact": line.fact.to_dict()} for line in self.lines]
        whole = {"kind": KIND, "settings": self.settings, "facts": lines}
        with atomic_write(folder / self.NAME) as part:
            part.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def merged(self, folder: Path) -> Manifest:
        """With the lines that the folder has by now for other facts, from other processes.

        Raises:
            InputError: another process has begun there with other settings.
            FileError: the folder's manifest cannot be read.
        """
        if not (folder / self.NAME).is_file():
            return self
        there = Manifest.read(folder)
        there.require_same(self.settings, folder)
        own = {line.fact for line in self.lines}
        return Manifest(self.settings, (*self.lines, *(line for line in there.lines if line.fact not in own)))

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read what `write` wrote.

        Raises:
            FileError: the folder has no such file, or another one.
        """
        path = Path(folder) / cls.NAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["kind"] != KIND:
                raise KeyError("kind")
            lines = [Line(**{**line, "fact": Fact.from_dict(line["fact"])}) for line in found["facts"]]
            return cls(dict(found["settings"]), tuple(lines))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"folder: {os.fspath(folder)!r} holds no traces that can be read ({cls.NAME}: "
                f"{type(error).__name__}: {error}). Name a folder that trace_facts wrote."
            ) from error

    def require_same(self, wanted: Mapping[str, Any], folder: Path) -> None:
        """Refuse other settings than those that the folder was made with.

        Raises:
            InputError: a setting differs; it is named.
        """
        for name in {**wanted, **self.settings}:
            if self.settings.get(name) != wanted.get(name):
                raise InputError(
                    f"folder: {os.fspath(folder)!r} has traces with {name} {self.settings.get(name)!r}, but "
                    f"{wanted.get(name)!r} is wanted now. Name another folder, or use the same settings."
                )


def settings_of(model: HookedModel, tracer: Callable[..., Any]) -> dict[str, Any]:
    """What decides the values of a trace, beside the fact; plain JSON.

    Example:
        >>> settings_of(model, partial(causal_trace, samples=4))["samples"]  # doctest: +SKIP
        4
    """
    options = {name: value for name, value in options_of(tracer).items() if name not in IMMATERIAL}
    weight = next(iter(model.named_parameters()))[1]
    whole = {
        "mechstyle": __version__,
        "fingerprint": fingerprint(model),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "edits": edited_weights(model),
        "hooks": described(hooks_by_place(model)),
        "tracer": described(tracer.func if isinstance(tracer, functools.partial) else tracer),
        **{name: described(value) for name, value in options.items()},
    }
    found: dict[str, Any] = json.loads(json.dumps(whole))
    return found


def options_of(tracer: Callable[..., Any]) -> dict[str, Any]:
    """The options of a tracing function with their values: those of a `functools.partial`, else defaults.

    Raises:
        InputError: the tracer is not a function of a model and a fact.

    Example:
        >>> options_of(partial(causal_trace, samples=4))["samples"]  # doctest: +SKIP
        4
    """
    if not callable(tracer):
        raise InputError(f"tracer: expected a function of a model and a fact, got {type(tracer).__name__}.")
    parameters = inspect.signature(tracer).parameters
    try:
        inspect.signature(tracer).bind("model", "fact")
    except TypeError as error:
        raise InputError(
            f"tracer: expected a function that is called with a model and a fact, but {error}. "
            "Give its options by name: functools.partial(causal_trace, samples=4)."
        ) from error
    return {
        name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty
    }
