"""The question that every run of a trace answers: how probable is this answer after this prompt?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.errors import WorkError
from mechstyle.metrics import token_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import default_memory, rows_within
from mechstyle.tokens import EncodedPrompt

__all__ = ["Metric", "Question"]

Metric = Literal["prob", "logprob"]


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt with its answer, teacher-forced. The answer's last token predicts nothing and is not run."""

    encoded: EncodedPrompt
    metric: Metric

    @property
    def ids(self) -> Int[Tensor, "1 pos"]:
        """The tokens that are run."""
        return self.encoded.ids[None, :-1]

    @property
    def n_answer(self) -> int:
        """Number of answer tokens: they are predicted by the last positions of a run."""
        return len(self.encoded.target_ids)

    def rows_within(self, model: HookedModel) -> int:
        """Rows of one run that fit into the default memory."""
        width = self.ids.shape[1]
        memory = default_memory(model)
        return rows_within(model, memory, width=width, n_positions=width, n_last=self.n_answer)

    def score(
        self, logits: Float[Tensor, "row answer vocab"], *, run: str = "corrupted"
    ) -> Float[NDArray[np.float64], " row"]:
        """The metric of the whole answer in each row, from the logits that predict its tokens.

        Raises:
            WorkError: a score is not finite.
        """
        total = token_logprobs(logits, self.encoded.target_ids[None]).sum(-1)
        found = (total.exp() if self.metric == "prob" else total).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise WorkError(
                f"causal_trace: a {run} run gave a score that is NaN or infinite. "
                "Use less noise, or load the model with a wider dtype such as torch.float32."
            )
        scores: NDArray[np.float64] = found
        return scores

    def greedy(self, logits: Float[Tensor, "1 answer vocab"]) -> bool:
        """Whether the most probable tokens are the answer."""
        return bool(torch.equal(logits[0].argmax(-1).cpu(), self.encoded.target_ids))
