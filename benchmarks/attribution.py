"""All cells by attribution patching, against every cell run; and how well the estimates order the cells."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from common import Case, Options, main, measure, textbook
from shapes import QUICK, fact, gpt2

import mechstyle as ms
from mechstyle.metrics import interval
from mechstyle.tokens import encode_fact
from mechstyle.tracing.attribution import attribution_patching
from mechstyle.tracing.grid import default_window
from mechstyle.tracing.rank_correlation import rank_correlation

ORGANISM = "organism-m"
KINDS = ("resid", "mlp", "attn")
MORE = ("severed_mlp", "severed_attn", "heads", "q", "k", "v", "pattern", "neurons")
SUBJECT, TOKENS, SAMPLES, STEPS = range(2, 5), 12, 10, 10
FACTS, CHECKED, NEURON_LAYER = 30, 100, 2
TOLERANCE = 1e-4
"""Of the scores of the clean and corrupted runs."""
Scores = tuple[Any, Any]


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """Speed against the textbook loop and against resumed runs, then the organism's facts."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    yield measure(one_fact(model, "textbook", gate=30.0, aim=60.0), options)
    yield measure(one_fact(model, "resumed", gate=1.0, aim=10.0), options)
    yield from on_organism(options)


def one_fact(model: Any, baseline: str, *, gate: float, aim: float) -> Case:
    """All cells of three kinds for one fact."""
    one, window = fact(TOKENS, SUBJECT), default_window(model.cfg.n_layers)
    encoded = encode_fact(model, one, prepend_bos=False)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(SAMPLES, len(SUBJECT), model.cfg.d_model, generator=generator) * 0.06  # 3 sigma
    settings: dict[str, Any] = {
        "kinds": KINDS, "corruption": ms.GaussianNoise(draws=draws), "metric": "logprob", "window": window,
        "prepend_bos": False,
    }  # fmt: skip

    def loop() -> Scores:
        for kind in KINDS:
            clean, corrupted, _ = textbook.trace(
                model,
                encoded.ids.tolist(),
                n_prompt=TOKENS,
                subject=SUBJECT,
                draws=draws.to(model.cfg.device),
                kind=kind,
                width=1 if kind == "resid" else window,
                tokens_at_once=TOKENS,
            )
        return clean.double().cpu().numpy(), corrupted.double().cpu().numpy()

    return Case(
        work=f"attribution {', '.join(KINDS)} {TOKENS} x {model.cfg.n_layers}, against {baseline} runs",
        fast=lambda: scores(attribution_patching(model, one, check=0, **settings)),
        baseline=loop if baseline == "textbook" else lambda: scores(ms.causal_trace(model, one, **settings)),
        difference=lambda found, wanted: apart([found], [wanted]),
        tolerance=TOLERANCE,
        gate=gate,
        aim=aim,
        sizes={"tokens": TOKENS, "subject": list(SUBJECT), "samples": SAMPLES, "window": window},
    )


def on_organism(options: Options) -> Iterator[dict[str, Any]]:
    """Facts that the organism knows: exact cells by resumed runs, and both estimates of them."""
    model = ms.load_model(ORGANISM, device=options.device)
    n_facts, samples, steps, checked = (1, 2, 2, 4) if options.quick else (FACTS, SAMPLES, STEPS, CHECKED)
    facts = known(model, n_facts)
    for method in ("gradient", "integrated"):
        estimated = partial(attribution_patching, model, method=method, steps=steps, samples=samples, check=0)
        exact = partial(ms.causal_trace, model, metric="logprob", samples=samples)
        pairs: list[tuple[ms.Trace, ms.Trace]] = []
        found = measure(over(facts, method, estimated, exact, pairs), options)
        whole = {kind: [rank_correlation(*pair, kind).value for pair in pairs] for kind in KINDS}
        more = partial(estimated, kinds=MORE, neuron_layer=NEURON_LAYER, samples=1, check=checked)
        some = sampled([more(one) for one in facts])
        yield {**found, "rank_correlation": summary(whole | some), "sampled_cells": checked}


def known(model: Any, number: int) -> list[ms.Fact]:
    """The first so many of the organism's facts that it completes."""
    found: list[ms.Fact] = []
    for request in ms.organisms.requests(ORGANISM, n=2 * number, seed=0):
        if attribution_patching(model, request.fact, kinds=("resid",), samples=1, check=0).knows:
            found.append(request.fact)
    return found[:number]


def over(
    facts: Sequence[ms.Fact],
    method: str,
    estimated: Callable[[ms.Fact], ms.Trace],
    exact: Callable[[ms.Fact], ms.Trace],
    pairs: list[tuple[ms.Trace, ms.Trace]],
) -> Case:
    """Three kinds for all facts; the traces of the last comparison are kept."""

    def difference(one: list[ms.Trace], other: list[ms.Trace]) -> float:
        pairs[:] = zip(other, one, strict=True)
        return apart([scores(trace) for trace in one], [scores(trace) for trace in other])

    return Case(
        work=f"attribution ({method}) of {len(facts)} organism facts, against resumed runs",
        fast=lambda: [estimated(one) for one in facts],
        baseline=lambda: [exact(one) for one in facts],
        difference=difference,
        tolerance=TOLERANCE,
        gate=0.0,
        aim=1.0,
        sizes={"facts": len(facts), "samples": SAMPLES, "steps": STEPS},
        repeats=1,
    )


def scores(trace: ms.Trace) -> Scores:
    """Of the clean and of the corrupted runs."""
    return trace.clean, trace.corrupted.values


def apart(found: Sequence[Scores], wanted: Sequence[Scores]) -> float:
    """Largest difference of scores: that of effects is what an estimate costs, and is reported by ranks."""
    return max(
        float(np.abs(np.append(*one) - np.append(*other)).max())
        for one, other in zip(found, wanted, strict=True)
    )


def sampled(traces: Sequence[ms.Trace]) -> dict[str, list[float]]:
    """Rank correlations that the estimates' own checks found."""
    checks = [trace.settings["check"]["rank_correlation"] for trace in traces]
    return {kind: [one[kind]["value"] for one in checks if one[kind] is not None] for kind in MORE}


def summary(values: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Mean over facts, with a 95 % interval over them."""
    found = {}
    for kind, of_facts in values.items():
        low, high = interval(np.array(of_facts))
        numbers = {"mean": np.mean(of_facts), "low": low, "high": high}
        found[kind] = {name: round(float(number), 3) for name, number in numbers.items()}
    return found


if __name__ == "__main__":
    sys.exit(main(figures, "Attribution patching of all cells"))
