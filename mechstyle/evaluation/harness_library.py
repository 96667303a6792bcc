"""The library lm-eval, which the extra ``harness`` brings: its parts, and what it must leave as it was."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch

from mechstyle.errors import InputError

__all__ = ["Library", "harness_library", "random_as_it_was"]


@dataclass(frozen=True)
class Library:
    """The parts of the harness that are used."""

    evaluator: Any
    registry: Any
    tasks: Any
    version: str


def harness_library() -> Library:
    """Import the library.

    Raises:
        InputError: it is not installed.

    >>> harness_library().version  # doctest: +SKIP
    '0.4.13'
    """
    try:
        evaluator, registry, tasks = (
            importlib.import_module(f"lm_eval.{name}") for name in ("evaluator", "api.registry", "tasks")
        )
    except ImportError as error:
        raise InputError(
            "HarnessTasks: tasks of the lm-evaluation-harness need the library lm-eval; "
            "pip install 'mechstyle[harness]'."
        ) from error
    return Library(evaluator, registry, tasks, metadata.version("lm_eval"))


@contextmanager
def random_as_it_was() -> Iterator[None]:
    """What the harness and its data sets draw leaves Python's, numpy's and torch's generators untouched."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
