"""What fine-tuning reads: rows of tokens, batches of them in a seeded order, and their losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.editing.finetune_options import FinetuneLoss
from mechstyle.errors import InputError
from mechstyle.facts import EditRequest, Fact
from mechstyle.metrics import kl_divergence, token_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import default_memory, rows_within
from mechstyle.runs.training import ReplacedRuns
from mechstyle.texts import encode_text
from mechstyle.tokens import encode_fact

__all__ = ["Row", "RowLogits", "draws", "preserved_rows", "read", "request_rows", "run_batches"]


@dataclass(frozen=True, eq=False)
class Row:
    """Token ids of which those from ``first`` on are predicted: a target after its prompt, or a text."""

    ids: Int[Tensor, " pos"]
    first: int


@dataclass(frozen=True, eq=False)
class RowLogits:
    """The logits that predict the tokens of some rows, row after row without gaps.

    Args:
        counts: predicted tokens of each row.
    """

    logits: Float[Tensor, "token vocab"]
    ids: Int[Tensor, " token"]
    counts: tuple[int, ...]

    def nll(self, loss: FinetuneLoss = "teacher-forced") -> Float[Tensor, " row"]:
        """Mean of -log P over each row's tokens, in nats."""
        chosen = self.logits
        if loss == "as-published":
            starts = np.cumsum((0, *self.counts[:-1])).repeat(self.counts)
            chosen = chosen[torch.from_numpy(starts).to(chosen.device)]
        return self._means(-token_logprobs(chosen[None], self.ids[None])[0])

    def kl_from(self, reference: RowLogits) -> Float[Tensor, " row"]:
        """Mean of KL(P_reference ‖ P) over each row's tokens, in nats."""
        return self._means(kl_divergence(reference.logits, self.logits))

    def exact(self) -> Bool[Tensor, " row"]:
        """Whether every token of a row is the most probable one after those before it."""
        hits = self.logits.argmax(-1) == self.ids
        return torch.stack([part.all() for part in hits.split(self.counts)])

    def _means(self, values: Tensor) -> Tensor:
        return torch.stack([part.mean() for part in values.split(self.counts)])


def request_rows(
    model: HookedModel, requests: Sequence[EditRequest], *, prepend_bos: bool
) -> tuple[Row, ...]:
    """Each phrasing of each request, with the new target.

    Raises:
        TextError: a prompt cannot be tokenised.
    """
    return tuple(
        _fact_row(model, fact.with_target(request.new_target), prepend_bos)
        for request in requests
        for fact in request.phrased
    )


def preserved_rows(
    model: HookedModel, preserve: Sequence[str | Fact], *, prepend_bos: bool
) -> tuple[Row, ...]:
    """Texts, of which every token is predicted (cut to the model's context), and facts' targets.

    Raises:
        InputError: no list, or something else in it.
        TextError: a text has no token to predict, or a fact cannot be tokenised.
    """
    if isinstance(preserve, (str, Fact)) or not isinstance(preserve, Sequence):
        raise InputError(
            f"preserve: expected a list of texts or Facts, got one {type(preserve).__name__}; pass a list."
        )
    rows = []
    for index, one in enumerate(preserve):
        if isinstance(one, Fact):
            rows.append(_fact_row(model, one, prepend_bos))
        elif isinstance(one, str):
            ids = encode_text(
                model,
                one,
                name=f"preserve[{index}]",
                prepend_bos=prepend_bos,
                max_positions=int(model.cfg.n_ctx),
            )
            rows.append(Row(ids, 1))
        else:
            raise InputError(f"preserve[{index}]: expected a text or a Fact, got {type(one).__name__}.")
    return tuple(rows)


def draws(n_rows: int, size: int | None, seed: int) -> Iterator[list[int]]:
    """Batches of row numbers, without end: all, or each pass in a new order.

    >>> next(draws(3, None, seed=0))
    [0, 1, 2]
    """
    generator = np.random.default_rng(seed)
    while True:
        if size is None or size >= n_rows:
            yield list(range(n_rows))
        else:
            order = generator.permutation(n_rows).tolist()
            yield from (order[start : start + size] for start in range(0, n_rows, size))


def run_batches(model: HookedModel, rows: Sequence[Row], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Rows of one batch in runs that fit into memory with their graphs, long ones together."""
    order = sorted(numbers, key=lambda number: len(rows[number].ids))
    width = len(rows[order[-1]].ids)
    fitting = rows_within(model, default_memory(model), width=width, n_positions=width, n_last=width)
    size = max(1, fitting // int(model.cfg.n_layers))
    return (order[start : start + size] for start in range(0, len(order), size))


def read(runs: ReplacedRuns, values: Mapping[str, Tensor], rows: Sequence[Row]) -> RowLogits:
    """Run the rows in one padded batch and take the logits that predict their tokens."""
    ids = pad_sequence([row.ids for row in rows], batch_first=True)
    mask = pad_sequence([torch.ones_like(row.ids) for row in rows], batch_first=True)
    skipped = min(row.first for row in rows) - 1
    found = runs.logits(values, ids, attention_mask=mask, n_last=ids.shape[1] - skipped)
    parts = [
        found[place, row.first - 1 - skipped : len(row.ids) - 1 - skipped] for place, row in enumerate(rows)
    ]
    wanted = torch.cat([row.ids[row.first :] for row in rows]).to(found.device)
    return RowLogits(torch.cat(parts), wanted, tuple(len(part) for part in parts))


def _fact_row(model: HookedModel, fact: Fact, prepend_bos: bool) -> Row:
    encoded = encode_fact(model, fact, prepend_bos=prepend_bos)
    return Row(encoded.ids, encoded.n_prompt)
