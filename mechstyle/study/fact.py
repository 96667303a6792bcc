"""One fact of a study, after its edit was made: what stands beside its trace, and what came of the edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from mechstyle.editing.edit import EditSet
from mechstyle.evaluation.generation import complete
from mechstyle.evaluation.scores import Scores
from mechstyle.models import HookedModel, parameter
from mechstyle.report.record import Completion, FactResult
from mechstyle.tracing.baselines import Baseline
from mechstyle.tracing.logit_lens import logit_lens
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.trace import Trace

__all__ = ["NEW_TOKENS", "fact_result", "numbered"]

NEW_TOKENS = 10
BASELINES: tuple[Baseline, ...] = ("mean", "zero")
"""Of saliency; every model has them, whatever its tokenizer."""


def fact_result(
    model: HookedModel, index: int, trace: Trace, edit: EditSet, scores: Scores, folder: Path, bos: bool
) -> FactResult:
    """Look at a fact in the unedited and in the edited model; its edit is written into the folder.

    Args:
        index: of the fact in the study, from 0.

    Raises:
        FileError: the edit cannot be written.

    Example:
        >>> fact_result(model, 0, trace, edit, scores, folder, bos=False)  # doctest: +SKIP
    """
    request = edit.requests[0]
    prompts = [request.fact.prompt, *request.paraphrases]
    before = complete(model, prompts, n_tokens=NEW_TOKENS, prepend_bos=bos)
    with edit.applied(model):
        after = complete(model, prompts, n_tokens=NEW_TOKENS, prepend_bos=bos)
    name = edit.parameters[0]
    path = edit.save(folder / numbered("edit.safetensors", index))
    kinds = ["rewrite", *("paraphrase" for _ in request.paraphrases)]
    return FactResult(
        request=request,
        trace=trace,
        lens=logit_lens(model, request.fact, prepend_bos=bos),
        saliency=saliency(model, request.fact, baseline=BASELINES, prepend_bos=bos),
        edit=edit,
        frame=scores.rows[scores.rows["request"] == index].reset_index(drop=True),
        completions=tuple(
            Completion(cast(Any, kind), *texts)
            for kind, *texts in zip(kinds, prompts, before, after, strict=True)
        ),
        norms=(_norm(edit.delta(name)), _norm(parameter(model, name))),
        trace_file=numbered("trace.nc", index),
        edit_file=path.name,
        edit_bytes=path.stat().st_size,
    )


def _norm(weights: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(weights.detach().double().cpu()))


def numbered(name: str, index: int) -> str:
    """``edit.safetensors`` for the first fact, ``edit-2.safetensors`` for the second.

    Example:
        >>> numbered("edit.safetensors", 1)
        'edit-2.safetensors'
    """
    path = Path(name)
    return name if index == 0 else f"{path.stem}-{index + 1}{path.suffix}"
