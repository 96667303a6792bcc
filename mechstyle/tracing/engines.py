"""The two ways to run the cells of a trace, and which one a model allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from jaxtyping import Float
from torch import Tensor

from mechstyle.blocks import can_resume, may_resume
from mechstyle.errors import InputError
from mechstyle.models import HookedModel
from mechstyle.tracing.exchange import Exchange, Score, Scored
from mechstyle.tracing.grid import Cell
from mechstyle.tracing.restoration import WholeCleanRun
from mechstyle.tracing.resumed import RecordedCleanRun
from mechstyle.tracing.sides import Side

__all__ = ["CellRuns", "CleanRun", "Engine", "choose_engine", "clean_run"]

Engine = Literal["auto", "resume", "whole"]


class CellRuns(Protocol):
    """Two sides that have been run, one of which gives states to the other."""

    @property
    def logits(self) -> Float[Tensor, "sample answer vocab"]:
        """Logits of the corrupted side that predict the answer's tokens."""
        ...

    def changed(self, cells: Sequence[Cell], score: Score) -> Iterator[Scored]:
        """Cells that may differ from the baseline, some at a time and in any order, with their scores."""
        ...


class CleanRun(Protocol):
    """The clean side, which has been run."""

    @property
    def logits(self) -> Float[Tensor, "1 answer vocab"]:
        """Logits that predict the answer's tokens."""
        ...

    def against(self, corrupted: Side, *, max_rows: int) -> CellRuns:
        """The same with a corrupted side."""
        ...


def choose_engine(model: HookedModel, engine: Engine) -> Engine:
    """The engine to use: "auto" resumes runs where that is possible and no hook of the user would notice.

    Raises:
        InputError: an unknown engine, or "resume" on a model whose runs cannot be resumed.

    Example:
        >>> choose_engine(model, "auto")  # doctest: +SKIP
        'resume'
    """
    if engine not in ("auto", "resume", "whole"):
        raise InputError(f"engine: expected 'auto', 'resume' or 'whole', got {engine!r}.")
    if engine == "resume" and not can_resume(model):
        raise InputError(
            f"engine: runs of this {type(model).__name__} cannot be resumed; use 'auto' or 'whole'."
        )
    if engine == "auto":
        return "resume" if may_resume(model) else "whole"
    return engine


def clean_run(engine: Engine, model: HookedModel, side: Side, exchange: Exchange) -> CleanRun:
    """Run the clean side with the chosen engine.

    Example:
        >>> clean_run("resume", model, setup.clean(question), exchange).logits.shape  # doctest: +SKIP
        torch.Size([1, 1, 5000])
    """
    kind = RecordedCleanRun if engine == "resume" else WholeCleanRun
    return kind.of(model, side, exchange)
