"""Corrupted runs of one prompt, with clean states put back, and the answer's score in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
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


@dataclass(frozen=True, eq=False)
class CorruptedRuns:
    """Corrupted runs of a prompt over fixed noise draws: every cell of a grid sees the same ones.

    Attributes:
        clean: the clean run's states, by site, that may be put back.
        batch_size: rows (a draw and a restored token) in one forward pass.
    """

    model: HookedModel
    encoded: EncodedPrompt
    subject: range
    draws: Float[Tensor, "sample subject_token d_model"]
    clean: Mapping[Site, Float[Tensor, "1 pos d_model"]]
    metric: Metric
    batch_size: int

    def baseline(self) -> Float[NDArray[np.float64], " sample"]:
        """Score of the answer for each draw, with nothing put back.

        Raises:
            WorkError: a score is not finite.
        """
        return np.concatenate([self._scores(draws, []) for draws in self.draws.split(self.batch_size)])

    def restored(self, sites: Sequence[Site], tokens: range) -> Float[NDArray[np.float64], "sample token"]:
        """Score of the answer for each draw and token, with the token's clean states at these sites put back.

        Raises:
            WorkError: a score is not finite.
        """
        samples = len(self.draws)
        draws = self.draws.repeat(len(tokens), 1, 1)
        token_of_row = torch.tensor(tokens).repeat_interleave(samples)
        batches = zip(draws.split(self.batch_size), token_of_row.split(self.batch_size), strict=True)
        scores = [
            self._scores(batch, [restore(site, self.clean[site], at) for site in sites])
            for batch, at in batches
        ]
        return np.concatenate(scores).reshape(len(tokens), samples).T

    def _scores(self, draws: Tensor, restorations: Sequence[Hook]) -> NDArray[np.float64]:
        """The noise comes first, so that a state put back at the embedding stays clean."""
        ids = self.encoded.ids.expand(len(draws), -1)
        found = self.score(logits(self.model, ids, hooks=[corrupt(draws, self.subject), *restorations]))
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


def restore(site: Site, clean: Float[Tensor, "1 pos d_model"], tokens: Int[Tensor, " row"]) -> Hook:
    """The hook that puts back, in each row, the clean state of that row's token at a site."""

    def put_back(state: Tensor, hook: Any) -> Tensor:
        state, at = state.clone(), tokens.to(state.device)
        state[torch.arange(len(at), device=state.device), at] = clean[0, at]
        return state

    return site.hook, put_back
