"""The two ways to run the cells of a trace, and which one a model allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from jaxtyping import Float
from torch import Tensor

from mechstyle.blocks import can_resume, may_resume
from mechstyle.errors import InputError
from mechstyle.models import HookedModel
from mechstyle.sites import Kind
from mechstyle.tracing.answer import Question
from mechstyle.tracing.grid import Cell
from mechstyle.tracing.restoration import Scores, WholeCleanRun
from mechstyle.tracing.resumed import RecordedCleanRun

__all__ = ["CleanRun", "CorruptedRuns", "Engine", "choose_engine", "clean_run"]

Engine = Literal["auto", "resume", "whole"]


class CorruptedRuns(Protocol):
    """A corrupted prompt under some noise draws."""

    def baseline(self) -> Scores:
        """Score of the answer for each draw, with nothing put back."""
        ...

    def restored(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Scores]]:
        """Each cell that may differ from the baseline, with its score for each draw; in any order."""
        ...


class CleanRun(Protocol):
    """The clean run of a question."""

    @property
    def logits(self) -> Float[Tensor, "1 answer vocab"]:
        """Logits that predict the answer's tokens."""
        ...

    def corrupted(
        self, draws: Float[Tensor, "sample subject_token d_model"], *, max_rows: int
    ) -> CorruptedRuns:
        """The same prompt under some noise draws."""
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


def clean_run(engine: Engine, model: HookedModel, question: Question, kinds: Sequence[Kind]) -> CleanRun:
    """Run the question's prompt with the chosen engine.

    Example:
        >>> clean_run("resume", model, question, ("mlp",)).logits.shape  # doctest: +SKIP
        torch.Size([1, 1, 5000])
    """
    if engine == "resume":
        return RecordedCleanRun.of(model, question, kinds)
    return WholeCleanRun.of(model, question, kinds)
