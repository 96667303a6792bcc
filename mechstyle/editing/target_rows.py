"""What a target search reads: each request's prompt in its contexts, and the subject's own prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.editing.keys import BARE, last_subject_index
from mechstyle.errors import InputError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.tokens import encode, encode_fact

__all__ = ["TargetRows", "target_rows"]


@dataclass(frozen=True, eq=False)
class TargetRows:
    """Sequences of several requests, each ending with the last state that is read in it.

    Attributes:
        ids: ragged token ids, a sequence a row.
        request: each row's request.
        subject: each row's index of the subject's last token.
        bare: each request's row with the bare prompt.
        answer_row, answer_end: the states that predict answer tokens: row, and place counted from the row's
            end (1 is the last).
        answer_id, answer_weight: the token predicted there, and its weight in the mean over phrasings,
            contexts and tokens.
        kl_row: each request's row whose last state the KL divergence is read at; empty when it is not used.
    """

    ids: tuple[Int[Tensor, " pos"], ...]
    request: Int[Tensor, " row"]
    subject: Int[Tensor, " row"]
    bare: Int[Tensor, " request"]
    answer_row: Int[Tensor, " state"]
    answer_end: Int[Tensor, " state"]
    answer_id: Int[Tensor, " state"]
    answer_weight: Float[Tensor, " state"]
    kl_row: Int[Tensor, " request_or_none"]

    @property
    def lengths(self) -> Int[Tensor, " row"]:
        """Number of tokens of each row."""
        return torch.tensor([len(ids) for ids in self.ids])

    @property
    def n_last(self) -> int:
        """How many of a row's last states are read, at most."""
        return int(self.answer_end.max())

    @property
    def n_after(self) -> int:
        """Positions from the subject's last token to the end, at most."""
        return int((self.lengths - self.subject).max())

    def read_at_subject(self) -> list[bool]:
        """Of each request, whether some answer token is predicted at the subject's last token itself."""
        hits = self.lengths[self.answer_row] - self.answer_end == self.subject[self.answer_row]
        found = torch.zeros(len(self.bare), dtype=torch.bool)
        found[self.request[self.answer_row[hits]]] = True
        return [bool(one) for one in found]

    def of(self, kept: Sequence[int]) -> tuple[TargetRows, Int[Tensor, " row"]]:
        """The rows of some requests, renumbered, and which rows they were."""
        row_kept = torch.isin(self.request, torch.tensor(kept))
        index = row_kept.nonzero()[:, 0]
        new_row = row_kept.long().cumsum(0) - 1
        new_request = torch.full((int(self.request.max()) + 1,), -1)
        new_request[torch.tensor(kept)] = torch.arange(len(kept))
        state = row_kept[self.answer_row]
        rows = TargetRows(
            ids=tuple(self.ids[row] for row in index.tolist()),
            request=new_request[self.request[index]],
            subject=self.subject[index],
            bare=new_row[self.bare[torch.tensor(kept)]],
            answer_row=new_row[self.answer_row[state]],
            answer_end=self.answer_end[state],
            answer_id=self.answer_id[state],
            answer_weight=self.answer_weight[state],
            kl_row=new_row[self.kl_row[torch.tensor(kept)]] if len(self.kl_row) else self.kl_row,
        )
        return rows, index


def target_rows(
    model: HookedModel,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    *,
    kl_prompt: str | None,
    kl_at_subject: bool,
    prepend_bos: bool | None,
) -> TargetRows:
    """Tokenise every request in every phrasing and context, and its subject's own prompt where that is used.

    Args:
        contexts: the bare ``"{}"`` among them.
        kl_prompt: None for none.

    Raises:
        InputError: no requests, or something that is none.
        TextError: a prompt cannot be tokenised.
    """
    _check(requests)
    ids: list[Tensor] = []
    request_of, subject, bare, kl_row = list[int](), list[int](), list[int](), list[int]()
    states: list[tuple[int, int, int, float]] = []
    for number, request in enumerate(requests):
        bare.append(len(ids) + list(contexts).index(BARE))
        for fact, context in itertools.product(request.phrased, contexts):
            one = encode_fact(
                model, fact, target=request.new_target, template=context, prepend_bos=prepend_bos
            )
            answer = one.target_ids.tolist()
            weight = 1 / (len(request.phrased) * len(contexts) * len(answer))
            # The answer's last token predicts nothing: it is not run.
            states += [(len(ids), len(answer) - place, token, weight) for place, token in enumerate(answer)]
            ids.append(one.ids[:-1])
            subject.append(last_subject_index(one))
            request_of.append(number)
        if kl_prompt is not None:
            start, name = kl_prompt.index(BARE), request.fact.subject
            text = kl_prompt.replace(BARE, name, 1)
            own = encode(model, text, subject_offsets=(start, start + len(name)), prepend_bos=prepend_bos)
            last = last_subject_index(own)
            kl_row.append(len(ids))
            ids.append(own.ids[: last + 1] if kl_at_subject else own.ids)
            subject.append(last)
            request_of.append(number)
    row, end, token, weight_of = zip(*states, strict=True)
    return TargetRows(
        ids=tuple(ids),
        request=torch.tensor(request_of),
        subject=torch.tensor(subject),
        bare=torch.tensor(bare),
        answer_row=torch.tensor(row),
        answer_end=torch.tensor(end),
        answer_id=torch.tensor(token),
        answer_weight=torch.tensor(weight_of, dtype=torch.float64),
        kl_row=torch.tensor(kl_row, dtype=torch.long),
    )


def _check(requests: Sequence[EditRequest]) -> None:
    if not isinstance(requests, Sequence):
        raise InputError(
            f"requests: expected a sequence of EditRequests, got one {type(requests).__name__}; pass a list."
        )
    if not requests:
        raise InputError("requests: expected at least one EditRequest, got none.")
    for number, request in enumerate(requests):
        if not isinstance(request, EditRequest):
            raise InputError(f"requests[{number}]: expected an EditRequest, got a {type(request).__name__}.")
