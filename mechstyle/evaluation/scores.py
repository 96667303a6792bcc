"""Score a model, or an edit of it, on what was asked for, what should follow, and what should stay."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
from rich.console import Console
from rich.progress import track

from mechstyle.answers import require_positive
from mechstyle.errors import InputError
from mechstyle.evaluation.edits import (
    AnyEdit,
    Edits,
    check_edits,
    edit_record,
    is_one,
    listed_edits,
    require_own_requests,
)
from mechstyle.evaluation.intervals import summarise
from mechstyle.evaluation.measure import Row
from mechstyle.evaluation.probes import encode_probes
from mechstyle.evaluation.readings import Reading, read_under
from mechstyle.evaluation.request_scores import Reduce, require_reduce, room_for, score_rows
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, active_base, provenance, require_hooked, resolve_bos
from mechstyle.plain_json import plain_json
from mechstyle.texts import encode_texts, exp_mean

__all__ = ["Scores", "Stage", "evaluate"]

Stage = Literal["before", "after"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What ``evaluate`` found.

    Args:
        rows: a row per stage, request and prompt. ``stage`` is "before" (the model as it came) or "after"
            (with the edit). ``kind`` is rewrite, paraphrase or neighborhood. ``logp_new, logp_true`` are mean
            token log-probabilities in nats, ``logp_new_sum, logp_true_sum`` those of the whole targets;
            ``p_new, p_true`` are the probabilities that ``success`` and ``magnitude`` compare; ``exact_new,
            exact_true`` say whether every token of the target is the most probable one, teacher-forced, and
            ``accuracy_new, accuracy_true`` which share of them is. ``scope`` is "in" for prompts that should
            follow the edit and "near" for the neighbourhood; ``relation`` is the request's.
        perplexity: stage -> perplexity of the texts given; None without texts.
        provenance: fingerprint of the unedited model, versions, settings.
    """

    rows: pd.DataFrame
    perplexity: Mapping[Stage, float] | None
    provenance: Mapping[str, Any]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """("before",), or ("before", "after") when an edit was scored."""
        return tuple(stage for stage in get_args(Stage) if (self.rows["stage"] == stage).any())

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of the last stage: one per request, kind and prompt, with the edit when one was scored."""
        return self.rows[self.rows["stage"] == self.stages[-1]].reset_index(drop=True)

    def summary(
        self, ci: float = 0.95, *, stage: Stage | None = None, resamples: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """Metrics of one stage, with percentile bootstrap intervals over requests.

        Index ``metric``: ``efficacy``, ``paraphrase``, ``neighborhood``, ``score`` (their harmonic mean), and
        ``*_magnitude``, ``*_exact`` and, if asked for, ``*_generated``. Columns ``value, low, high,
        n_requests, measure, note``. A metric without prompts is NaN, and its note says so. Where all requests
        agree, the bootstrap interval has no width: few requests then say less than it seems.

        Args:
            ci: share of the resamples inside the interval.
            stage: None is the last one: "after" when an edit was scored, else "before".
            seed: of the resampling; the same seed gives the same intervals.

        Raises:
            InputError: the stage was not scored.
            RangeError: ``ci`` or ``resamples`` is out of range.

        >>> scores.summary().loc["efficacy", "value"]  # doctest: +SKIP
        1.0
        """
        chosen = self.stages[-1] if stage is None else stage
        if chosen not in self.stages:
            raise InputError(
                f"stage: expected one of {', '.join(self.stages)}, got {chosen!r}; "
                "there is an 'after' only when evaluate was given edits."
            )
        return summarise(self.rows[self.rows["stage"] == chosen], ci=ci, resamples=resamples, seed=seed)

    def to_dict(self, ci: float = 0.95, *, seed: int = 0) -> dict[str, Any]:
        """Summaries by stage, rows, perplexity and provenance as JSON; NaN and infinity become null."""
        summaries = {
            stage: self.summary(ci, stage=stage, seed=seed).to_dict("index") for stage in self.stages
        }
        whole = {
            "ci": ci,
            "bootstrap_seed": seed,
            "summary": summaries,
            "perplexity": None if self.perplexity is None else dict(self.perplexity),
            "rows": self.rows.to_dict("records"),
            "provenance": dict(self.provenance),
        }
        plain: dict[str, Any] = plain_json(whole)
        return plain

    def to_json(self, ci: float = 0.95, *, seed: int = 0) -> str:
        """The JSON text of ``to_dict``."""
        return json.dumps(self.to_dict(ci, seed=seed), ensure_ascii=False, indent=2, allow_nan=False)


def evaluate(
    model: HookedModel,
    requests: Sequence[EditRequest],
    *,
    edits: Edits | None = None,
    prepend_bos: bool | None = None,
    perplexity_texts: Sequence[str] | None = None,
    reduce: Reduce = "mean",
    generate: bool = False,
    max_positions: int = 256,
    batch_size: int = 32,
    progress: bool = False,
) -> Scores:
    """Compare new and true targets on rewriting prompts, paraphrases, neighbours (Meng et al. 2022, 3.4).

    Success on the rewriting prompt (efficacy) and on paraphrases is P(new) > P(true); in the neighbourhood,
    whose true target is the neighbour's own, P(true) > P(new). Magnitudes are the same differences. The model
    is scored as it is and, given edits, with them; afterwards it is as it was, whatever happens.

    Args:
        edits: one ``EditSet`` is applied once for all requests; a sequence holds one for each request, which
            is applied for this request alone. So are edits beside the weights: an ``InContextEdit`` stands
            before every prompt and text (its own words are not scored), and an ``EditCache`` answers the
            prompts it finds, with probability 1 - epsilon; texts are no prompts, and are left to the model.
        prepend_bos: None means the model's default; it should be what the edits were made with.
        perplexity_texts: texts that have nothing to do with the edits (see ``perplexity``); with one edit a
            request, "after" is over all tokens under all edits.
        reduce: P of a target of several tokens is exp of the "mean" token log-probability, as in the
            published code, or of the "sum", its probability proper.
        generate: let the model write freely too: columns ``completion, generated_new, generated_true``.
        max_positions: tokens read of each perplexity text.
        batch_size: sequences in one forward pass; it does not change the result.
        progress: show progress bars on stderr.

    Raises:
        InputError: no requests, or edits that do not match them; nothing was run.
        TextError: a prompt or text cannot be tokenised as needed, or is too long behind an edit's context;
            nothing was run.
        RangeError: ``max_positions`` or ``batch_size`` is out of range.
        ModelError: an edit belongs to another model, or the model's logits are not finite.

    Warns:
        BosMismatchWarning: an edit was made with another ``prepend_bos``.

    >>> scores = evaluate(model, [request], edits=edit)  # doctest: +SKIP
    >>> scores.summary().loc["efficacy", "value"]  # doctest: +SKIP
    1.0
    """
    require_hooked(model)
    require_positive("batch_size", batch_size)
    require_reduce(reduce)
    bos = resolve_bos(model, prepend_bos)
    probes = encode_probes(model, requests, prepend_bos=bos)
    listed = listed_edits(edits, len(requests))
    if not is_one(edits) and listed:
        require_own_requests(listed, requests)
    n_tokens = room_for(model, probes, prepend_bos=bos) if generate else 0
    texts = []
    if perplexity_texts is not None:
        texts = encode_texts(model, perplexity_texts, prepend_bos=bos, max_positions=max_positions)
    origin = provenance(
        model,
        prepend_bos=bos,
        reduce=reduce,
        n_requests=len(requests),
        generated_tokens=n_tokens or None,
        perplexity={"n_texts": len(texts), "max_positions": max_positions} if texts else None,
        edits=edit_record(edits),
        active_edits=sorted(active_base(model)),
    )
    check_edits(model, listed, str(origin["fingerprint"]), bos=bos)

    shared = is_one(edits)

    def reading(edit: AnyEdit | None, request: int | None = None) -> Reading:
        own = probes if request is None else [probe for probe in probes if probe.request == request]
        return read_under(model, edit, own, texts=texts, n_tokens=n_tokens, prepend_bos=bos)

    plain = reading(None)
    under = [reading(edit, None if shared else index) for index, edit in enumerate(listed)]

    def rows(stage: Stage, asked: Reading, bar: bool) -> list[Row]:
        found = score_rows(asked, reduce=reduce, n_tokens=n_tokens, batch_size=batch_size, progress=bar)
        return [{"stage": stage, **row} for row in found]

    table = rows("before", plain, progress)
    before, after = plain.nll(batch_size=batch_size), (0.0, 0)
    console = Console(stderr=True)
    bar = track(listed, "editing", console=console, disable=not progress or shared, transient=True)
    for edit, asked in zip(bar, under, strict=True):
        with edit.applied(model):
            table += rows("after", asked, progress and shared)
            total, count = asked.nll(batch_size=batch_size)
            after = after[0] + total, after[1] + count
    measured: dict[Stage, tuple[float, int]] = {"before": before, "after": after}
    perplexity = {stage: exp_mean(*sums) for stage, sums in measured.items() if sums[1]}
    return Scores(pd.DataFrame(table), perplexity or None, origin)
