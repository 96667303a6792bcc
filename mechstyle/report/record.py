"""What a study found, as data: the report and results.json are two ways to show a ``Report``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mechstyle.editing.edit import EditSet
from mechstyle.evaluation.scores import Scores
from mechstyle.facts import EditRequest
from mechstyle.tracing.aggregate import LayerSuggestion
from mechstyle.tracing.logit_lens import LogitLens
from mechstyle.tracing.saliency import Saliency
from mechstyle.tracing.trace import Trace

__all__ = ["Completion", "FactResult", "LayerChoice", "Report"]


@dataclass(frozen=True)
class Completion:
    """The model's own greedy continuation of a prompt, before and after the edit."""

    kind: Literal["rewrite", "paraphrase"]
    prompt: str
    before: str
    after: str


@dataclass(frozen=True, eq=False)
class FactResult:
    """One fact: its trace, what stands beside it, its edit, and what the model says before and after.

    Attributes:
        lens: what each layer's states predict, of the prompt in the unedited model; saliency: on which of its
            tokens the old answer depends.
        frame: this fact's rows of the scores.
        relative_norm: ``‖ΔW‖ / ‖W‖`` (Frobenius) of the edited parameter.
        norms: ``‖ΔW‖`` and ``‖W‖``.
    """

    request: EditRequest
    trace: Trace
    lens: LogitLens
    saliency: Saliency
    edit: EditSet
    frame: pd.DataFrame
    completions: tuple[Completion, ...]
    norms: tuple[float, float]
    trace_file: str
    edit_file: str
    edit_bytes: int

    @property
    def relative_norm(self) -> float:
        """How large the change is beside the weights."""
        return self.norms[0] / self.norms[1]

    @property
    def losses(self) -> tuple[float, ...]:
        """The target's total loss at each step."""
        return tuple(self.edit.provenance["settings"]["losses"])


@dataclass(frozen=True, eq=False)
class LayerChoice:
    """The layer that was edited, who chose it, and what the traces suggested.

    Attributes:
        by: "given" by the user, measured in a "sweep" that ships with the model, the peak of the "trace", or,
            when the traces single out none, the "middle" of the model.
        sweep: a row a layer, when the model ships one.
    """

    layer: int
    by: Literal["given", "sweep", "trace", "middle"]
    reason: str
    suggestion: LayerSuggestion
    sweep: pd.DataFrame | None


@dataclass(frozen=True, eq=False)
class Report:
    """A finished study.

    Attributes:
        folder: where everything lies; ``html`` and ``results`` are in it.
        roles: average indirect effect by kind, token role and layer.
        covariance: count, condition number and text source of the second moments.
        settings: of the study, as JSON values; with them it can be repeated.
        command: the command line that repeats it.
    """

    folder: Path
    model: str
    shape: Mapping[str, int]
    facts: tuple[FactResult, ...]
    choice: LayerChoice
    roles: pd.DataFrame
    scores: Scores
    covariance: Mapping[str, Any]
    provenance: Mapping[str, Any]
    command: str
    seconds: float

    @property
    def html(self) -> Path:
        """The report to look at."""
        return self.folder / "report.html"

    @property
    def results(self) -> Path:
        """The same numbers as JSON."""
        return self.folder / "results.json"
