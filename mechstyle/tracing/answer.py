"""The question that every run of a trace answers: how probable is this answer after this prompt?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.errors import InputError, WorkError
from mechstyle.metrics import kl_divergence, token_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import default_memory, rows_within
from mechstyle.tokens import EncodedPrompt

__all__ = ["METRICS", "Metric", "MetricName", "Question"]

MetricName = Literal["prob", "logprob", "neg_kl"]
Metric = MetricName | Callable[[Float[Tensor, "row answer vocab"]], Float[Tensor, " row"]]
"""A metric by name, or a function of the logits that predict the answer's tokens, each row on its own."""
METRICS: tuple[str, ...] = get_args(MetricName)
UNITS = {"prob": "1", "logprob": "nats", "neg_kl": "nats"}


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt with its answer, teacher-forced, and how a run's logits are scored.

    The answer's last token predicts nothing and is not run.

    Attributes:
        encoded: the prompt with its answer.
        metric: "prob" and "logprob" (nats) of the whole answer; "neg_kl", minus KL(clean || run) in nats
            between the next-token distributions of the clean run and of this one; or a function.
        per_token: take the mean over the answer's tokens of the log-probability in place of the sum.
        other: another answer with the same tokens but for the last one; its score is subtracted.
        reference: logits of the clean run, for a metric that compares with them (`given`).
    """

    encoded: EncodedPrompt
    metric: Metric
    per_token: bool = False
    other: Int[Tensor, " answer"] | None = None
    reference: Float[Tensor, "1 answer vocab"] | None = None

    @property
    def ids(self) -> Int[Tensor, "1 pos"]:
        """The tokens that are run."""
        return self.encoded.ids[None, :-1]

    @property
    def n_answer(self) -> int:
        """Number of answer tokens: they are predicted by the last positions of a run."""
        return len(self.encoded.target_ids)

    @property
    def metric_name(self) -> str:
        """The metric in words, for records and axes."""
        name = self.metric if isinstance(self.metric, str) else _name(self.metric)
        return f"{name} per token" if self.per_token else name

    @property
    def units(self) -> str:
        """The metric's units; a function has its own."""
        return UNITS[self.metric] if isinstance(self.metric, str) else "metric's own"

    def given(self, logits: Float[Tensor, "1 answer vocab"]) -> Question:
        """The same question once the clean run's logits are known; call it after every clean run."""
        return replace(self, reference=logits.detach()) if self.metric == "neg_kl" else self

    def rows_within(self, model: HookedModel) -> int:
        """Rows of one run that fit into the default memory."""
        width = self.ids.shape[1]
        memory = default_memory(model)
        return rows_within(model, memory, width=width, n_positions=width, n_last=self.n_answer)

    def score_tensor(self, logits: Float[Tensor, "row answer vocab"]) -> Float[Tensor, " row"]:
        """The metric of each row, in fp32 at least, with gradients where the logits have them.

        Raises:
            InputError: a metric function does not give one number a row, or `given` was not called.
        """
        if self.metric == "neg_kl":
            if self.reference is None:
                raise InputError("metric: 'neg_kl' compares with the clean run; call question.given(logits).")
            return -kl_divergence(self.reference.expand_as(logits), logits).sum(-1)
        if not isinstance(self.metric, str):
            return self._called(self.metric, logits)
        score = self._answer(logits, self.encoded.target_ids)
        return score if self.other is None else score - self._answer(logits, self.other)

    def score(
        self, logits: Float[Tensor, "row answer vocab"], *, run: str = "corrupted"
    ) -> Float[NDArray[np.float64], " row"]:
        """The metric of each row, from the logits that predict the answer's tokens.

        Args:
            run: which run it is, for errors.

        Raises:
            InputError: as `score_tensor`.
            WorkError: a score is not finite.
        """
        scores: NDArray[np.float64] = self.score_tensor(logits).detach().double().cpu().numpy()
        if not np.isfinite(scores).all():
            raise WorkError(
                f"metric: {self.metric_name} of a {run} run is NaN or infinite. "
                + (
                    "Use less noise, or load the model with a wider dtype such as torch.float32."
                    if isinstance(self.metric, str)
                    else "Mend the function, use less noise, or load the model with a wider dtype."
                )
            )
        return scores

    def greedy(self, logits: Float[Tensor, "1 answer vocab"]) -> bool:
        """Whether the most probable tokens are the answer."""
        return bool(torch.equal(logits[0].argmax(-1).cpu(), self.encoded.target_ids))

    def _answer(self, logits: Tensor, ids: Int[Tensor, " answer"]) -> Float[Tensor, " row"]:
        total = token_logprobs(logits, ids[None]).sum(-1)
        if self.per_token:
            total = total / len(ids)
        return total.exp() if self.metric == "prob" else total

    def _called(self, metric: Callable[[Tensor], Tensor], logits: Tensor) -> Float[Tensor, " row"]:
        found = metric(logits if logits.dtype == torch.float64 else logits.float())
        if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
            came = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"metric: {_name(metric)} must give a tensor with one number for each of the {len(logits)} "
                f"rows of logits [row, answer, vocab], shape [{len(logits)}], but it gave {came}."
            )
        return found


def _name(metric: object) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))
