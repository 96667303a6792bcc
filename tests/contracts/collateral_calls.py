"""Calls of what measures everything else, for `calls.py`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mechstyle.errors import InputError
from mechstyle.evaluation import Divergence, HarnessTasks, HeldOutPerplexity, Task, TaskItem, Tasks
from mechstyle.evaluation.measure import Conditions, Measure

__all__ = ["COLLATERAL_CALLS", "COLLATERAL_INSTANT"]

with suppress(ImportError):
    # Importing it sets environment variables and filters of warnings once; a call must not.
    importlib.import_module("lm_eval.evaluator")

TEXTS: Final = ("Miles Davis plays the trumpet.", "Rome is the capital of Italy.", "He was born in London.")
ITEM: Final = TaskItem("Miles Davis plays the", (" trumpet", " guitar of Italy"), 0)


def _read(model: Any, measure: Measure) -> object:
    return measure.prepare(model, [], Conditions(prepend_bos=False))(None, [])


def _harness(model: Any) -> None:
    """Without its library, or the data of a task, the harness refuses."""
    with suppress(InputError):
        HarnessTasks(({"task": "own", "output_type": "multiple_choice"},)).prepare(
            model, [], Conditions(prepend_bos=False)
        )


COLLATERAL_CALLS: Final[Mapping[str, Callable[[Any, Path], object]]] = MappingProxyType(
    {
        "Divergence.prepare": lambda model, folder: _read(model, Divergence(TEXTS)),
        "HarnessTasks.prepare": lambda model, folder: _harness(model),
        "HeldOutPerplexity.prepare": lambda model, folder: _read(model, HeldOutPerplexity(TEXTS)),
        "Tasks.prepare": lambda model, folder: _read(model, Tasks((Task("music", (ITEM,)),))),
    }
)

COLLATERAL_INSTANT: Final = ("HarnessTasks.prepare",)
"""Calls that do not run the model."""
