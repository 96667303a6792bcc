"""Corrupted runs of one prompt, with clean states put back, and the answer's score in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.errors import WorkError
from mechstyle.metrics import answer_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import Hook, logits
from mechstyle.sites import Site
from mechstyle.tokens import EncodedPrompt

__all__ = ["CorruptedRuns", "Metric", "corrupt", "restore"]

Metric = Literal["prob", "logprob"]


@dataclass(frozen=True)
class CorruptedRuns:
    """Runs the corrupted prompt for every draw, with some states put back, and scores the answer."""

    model: HookedModel
    encoded: EncodedPrompt
    subject: range
    draws: Tensor
    metric: str
    batch_size: int

    def run(self, restored: Sequence[Hook]) -> Float[NDArray[np.float64], " sample"]:
        """Score of the answer in the corrupted run of every draw, with some states put back.

        Raises:
            WorkError: a score is not finite.
        """
        scores = []
        for batch in self.draws.split(self.batch_size):
            ids = self.encoded.ids.expand(len(batch), -1)
            scores.append(
                self.score(logits(self.model, ids, hooks=[corrupt(batch, self.subject), *restored]))
            )
        found: NDArray[np.float64] = np.concatenate(scores)
        if not np.isfinite(found).all():
            raise WorkError(
                "causal_trace: a corrupted run gave a score that is NaN or infinite. "
                "Use less noise, or load the model with a wider dtype such as torch.float32."
            )
        return found

    def score(self, run: Float[Tensor, "sample pos vocab"]) -> Float[NDArray[np.float64], " sample"]:
        """The metric of the whole answer in each row of logits."""
        found = answer_logprobs(run, self.encoded.ids[None], self.encoded.n_prompt)
        wanted = found.exp() if self.metric == "prob" else found
        array: NDArray[np.float64] = wanted.double().cpu().numpy()
        return array


def corrupt(draws: Float[Tensor, "sample subject_token d_model"], subject: range) -> Hook:
    """The hook that adds one draw a row to the embeddings of the subject's tokens."""

    def add_noise(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        state[:, subject.start : subject.stop] += draws.to(device=state.device, dtype=state.dtype)
        return state

    return Site(0, "embed").hook, add_noise


def restore(site: Site, clean: Float[Tensor, "1 pos d_model"], token: int) -> Hook:
    """The hook that puts the clean state of one token back at a site."""

    def put_back(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        state[:, token] = clean[:, token]
        return state

    return site.hook, put_back
