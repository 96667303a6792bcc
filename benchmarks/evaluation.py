"""Scores of a thousand of the organism's requests: batched, against one run for each prompt and target."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from common import Case, Options, counted, main, measure

import mechstyle as ms
from mechstyle.threads import few_threads
from tests.oracles import textbook_scores

MODEL, REQUESTS, BATCH = "organism-m", 1_000, 128
TOLERANCE = 1e-3
"""Of a mean log-probability, in nats: batches round differently in fp32."""

Pairs = list[tuple[float, float]]


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """Both sides on one thread: the model is small."""
    model = ms.load_model(MODEL, device=options.device)
    requests = ms.organisms.requests(MODEL, n=3 if options.quick else REQUESTS, seed=0)
    part = requests[: max(1, len(requests) // 50)]

    def fast(chosen: list[ms.EditRequest] = requests) -> Pairs:
        rows = ms.evaluate(model, chosen, prepend_bos=False, batch_size=BATCH).rows
        return list(zip(rows["logp_new"], rows["logp_true"], strict=True))

    def baseline() -> Pairs:
        return textbook_scores.score_requests(model, requests)

    def count() -> tuple[int, int]:
        """A fiftieth of the requests, scaled by its runs: the baseline is too long to run under counters."""
        one = counted(lambda: textbook_scores.score_requests(model, part), options.device)
        return round(one.flops * runs(requests) / runs(part)), one.peak

    with few_threads(model):
        found = measure(
            Case(
                work=f"scores of {len(requests):,} requests",
                fast=fast,
                baseline=baseline,
                difference=difference,
                tolerance=TOLERANCE,
                gate=5.0,
                aim=8.0,
                sizes={"requests": len(requests), "prompts": runs(requests) // 2, "batch_size": BATCH},
                repeats=2,
                count=count,
            ),
            options,
        )
    a_minute = 60 * len(requests) / found["seconds"]
    yield {**found, "work": f"{found['work']} ({a_minute:,.0f} a minute)"}


def runs(requests: list[ms.EditRequest]) -> int:
    """Of the baseline: two for each prompt."""
    return 2 * sum(1 + len(one.paraphrases) + len(one.neighborhood) for one in requests)


def difference(found: Pairs, expected: Pairs) -> float:
    """The largest, in nats."""
    return float(np.abs(np.array(found) - np.array(expected)).max())


if __name__ == "__main__":
    sys.exit(main(figures, "Scores"))
