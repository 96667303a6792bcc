"""The scores of CounterFact as rows: each prompt of a request, with its new and its true target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from mechstyle.answers import AnswerScore
from mechstyle.cases import Case
from mechstyle.errors import InputError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.generation import encode_prompts, said
from mechstyle.evaluation.intervals import METRICS
from mechstyle.evaluation.measure import About, AnyMetric, Conditions, Reader, Row
from mechstyle.evaluation.probes import Probe, encode_probes
from mechstyle.evaluation.readings import Reading, read_under
from mechstyle.evaluation.summaries import parts_of
from mechstyle.models import HookedModel

__all__ = ["Reduce", "RequestScores", "require_reduce", "room_for", "score_rows"]

Reduce = Literal["mean", "sum"]
EXTRA_TOKENS: Final = 2
"""Tokens generated beyond the longest target, to see whether its last word runs on."""


@dataclass(frozen=True)
class RequestScores:
    """Efficacy, paraphrases and neighbourhood of requests (Meng et al. 2022, 3.4), as a measure of a suite.

    Args:
        reduce: see ``evaluate``.
        generate: let the model write freely after each prompt too.

    Raises:
        InputError: ``reduce`` is neither "mean" nor "sum".

    Example:
        >>> RequestScores(generate=True).name
        'scores'
    """

    reduce: Reduce = "mean"
    generate: bool = False

    def __post_init__(self) -> None:
        require_reduce(self.reduce)

    @property
    def name(self) -> str:
        """The table's name."""
        return "scores"

    @property
    def about(self) -> About:
        """Each request is asked about."""
        return "requests"

    @property
    def metrics(self) -> tuple[AnyMetric, ...]:
        """Those of ``evaluate``; free generation only where it is asked for."""
        return tuple(
            metric
            for metric in METRICS
            if self.generate or not any(part.column.startswith("generated") for part in parts_of(metric))
        )

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {"reduce": self.reduce, "generate": self.generate}

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise every prompt of every request.

        Raises:
            TextError: a prompt does not fit the tokenizer or the context; request and prompt are named.
        """
        bos = conditions.prepend_bos
        probes = encode_probes(model, [case.request for case in cases], prepend_bos=bos)
        of: list[list[Probe]] = [[] for _ in cases]
        for probe in probes:
            of[probe.request].append(probe)
        n_tokens = room_for(model, probes, prepend_bos=bos) if self.generate else 0

        def read(edit: AnyEdit | None, chosen: Sequence[int]) -> list[Row]:
            asked = [probe for index in chosen for probe in of[index]]
            reading = read_under(model, edit, asked, texts=(), n_tokens=n_tokens, prepend_bos=bos)
            return score_rows(
                reading, reduce=self.reduce, n_tokens=n_tokens, batch_size=conditions.batch_size
            )

        return read


def require_reduce(reduce: str) -> None:
    """Refuse another way to sum up a target's tokens than those there are.

    Raises:
        InputError: it is neither "mean" nor "sum".

    >>> require_reduce("mean")
    """
    if reduce not in get_args(Reduce):
        raise InputError(f"reduce: expected 'mean' or 'sum', got {reduce!r}.")


def room_for(model: HookedModel, probes: Sequence[Probe], *, prepend_bos: bool) -> int:
    """How many tokens to generate to see any target, after checking that every prompt leaves room for them.

    Raises:
        TextError: a prompt leaves no room.

    >>> room_for(model, probes, prepend_bos=False)  # doctest: +SKIP
    4
    """
    longest = max(len(one.target_ids) for probe in probes for one in probe.encoded)
    n_tokens = EXTRA_TOKENS + longest
    encode_prompts(model, [probe.prompt for probe in probes], n_tokens=n_tokens, prepend_bos=prepend_bos)
    return n_tokens


def score_rows(
    asked: Reading, *, reduce: Reduce, n_tokens: int, batch_size: int, progress: bool = False
) -> list[Row]:
    """A row for each probe of requests' own prompts, in their order.

    Args:
        n_tokens: that the reading was made to generate; 0 generates nothing.

    >>> score_rows(reading, reduce="mean", n_tokens=0, batch_size=32)[0]["kind"]  # doctest: +SKIP
    'rewrite'
    """
    recalled = asked.recalled()
    scored = asked.answers(recalled, batch_size=batch_size, progress=progress)
    rows = [_row(probe, scores, reduce) for probe, scores in zip(asked.probes, scored, strict=True)]
    if n_tokens:
        written = asked.completions(recalled, n_tokens=n_tokens, batch_size=batch_size)
        for row, text in zip(rows, written, strict=True):
            row["completion"] = text
            given = said(text, (row["target_new"], row["target_true"]))
            row["generated_new"] = given == row["target_new"]
            row["generated_true"] = given == row["target_true"]
    return rows


def _row(probe: Probe, scores: tuple[AnswerScore, ...], reduce: Reduce) -> Row:
    """One row. An answer comes first; in the neighbourhood that is the true target."""
    stays = probe.question.kind == "neighborhood"
    (new, true), (target_new, target_true) = scores, probe.targets
    if stays:
        new, true, target_new, target_true = true, new, target_true, target_new
    p_new, p_true = (math.exp(one.mean_logp if reduce == "mean" else one.logp) for one in (new, true))
    gain = p_true - p_new if stays else p_new - p_true
    return {
        "request": probe.request,
        "subject": probe.subject,
        "relation": probe.relation,
        "kind": probe.question.kind,
        "scope": probe.question.scope,
        "item": f"{probe.question.kind}: {probe.prompt}",
        "prompt": probe.prompt,
        "target_new": target_new,
        "target_true": target_true,
        "logp_new": new.mean_logp,
        "logp_true": true.mean_logp,
        "logp_new_sum": new.logp,
        "logp_true_sum": true.logp,
        "p_new": p_new,
        "p_true": p_true,
        "success": gain > 0,
        "magnitude": gain,
        "exact_new": new.exact,
        "exact_true": true.exact,
        "accuracy_new": new.accuracy,
        "accuracy_true": true.accuracy,
    }
