"""MEMIT of a hundred requests, against the textbook form: one request at a time, one layer a pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from common import Case, Options, counted, main, measure, textbook_edits
from rome_target import NEW_TARGET, tokenised
from shapes import QUICK, contexts, gpt2, moment, numbered, words

import mechstyle as ms
from mechstyle.editing.keys import memit_contexts

EDITS = 100
LAYERS, STEPS, PREFIXES = range(3, 8), 5, (10,) * 5
TEMPLATE = f"{words(2)} {{}} {words(3, first=5)}"
ORGANISM, ORGANISM_LAYERS, ORGANISM_STEPS = "organism-m", range(3), 25
CLAMP, GATE = 0.75, 2.5
TOLERANCE = 1e-3
"""Of a layer's change, relative to its norm: Adam divides by the gradients' own size."""


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """GPT-2 small with random weights, then the organism and its own facts."""
    yield measure(random_case(options, steps=STEPS), options)
    yield measure(organism_case(options), options)


def random_case(
    options: Options, *, steps: int, gate: float = GATE, linear: Literal["requests", "steps"] = "requests"
) -> Case:
    """Requests of the same length, so that the FLOPs of two say what those of a hundred are."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    layers, n_edits, steps = (range(2), 3, 3) if options.quick else (LAYERS, EDITS, steps)
    requests = [
        ms.EditRequest(ms.Fact(TEMPLATE, numbered(number), " z"), NEW_TARGET) for number in range(n_edits)
    ]
    covariance = dict.fromkeys(layers, moment(model.cfg.d_mlp))
    return memit_case(
        model, requests, contexts(PREFIXES), layers, covariance, steps, "GPT-2 small", linear, gate, 5.0
    )


def organism_case(options: Options) -> Case:
    """Facts of the organism, its own contexts and second moments."""
    model = ms.load_model(ORGANISM, device=options.device)
    model.requires_grad_(False)
    n_edits, steps, n_keys = (2, 2, 1_000) if options.quick else (EDITS, ORGANISM_STEPS, 8_000)
    requests = ms.organisms.requests(ORGANISM, n=n_edits)
    covariance = ms.covariance(
        model,
        ms.organisms.texts(ORGANISM, n=n_keys // 20),
        layers=list(ORGANISM_LAYERS),
        n_keys=n_keys,
        prepend_bos=False,
    )
    templates = memit_contexts(model)
    return memit_case(
        model, requests, templates, ORGANISM_LAYERS, covariance, steps, ORGANISM, "steps", 2.0, 10.0
    )


def memit_case(
    model: Any,
    requests: Sequence[ms.EditRequest],
    templates: Sequence[str],
    layers: range,
    covariance: Mapping[int, torch.Tensor],
    steps: int,
    name: str,
    linear: Literal["requests", "steps"],
    gate: float,
    aim: float,
) -> Case:
    """Both sides without early stop; the baseline's FLOPs are linear in ``linear``, and counted by that."""
    target_options = ms.TargetOptions(steps=steps, clamp_norm=CLAMP, early_stop=0.0)
    plain = [tokenised(model, request, templates) for request in requests]

    def fast() -> ms.EditSet:
        return ms.memit(
            model,
            requests,
            layers=list(layers),
            covariance=covariance,
            contexts=templates,
            target_options=target_options,
            prepend_bos=False,
        )

    def baseline(n_requests: int = len(plain), n_steps: int = steps) -> dict[int, torch.Tensor]:
        return textbook_edits.memit(
            model,
            plain[:n_requests],
            layers=layers,
            covariance=covariance,
            ridge=float(model.cfg.d_mlp),
            steps=n_steps,
            clamp_norm=CLAMP,
        )

    def count() -> tuple[int, int]:
        many = len(plain) if linear == "requests" else steps
        one, two = (
            counted(lambda n=n: baseline(**{f"n_{linear}": n}), str(model.cfg.device)) for n in (1, 2)
        )
        return one.flops + (many - 1) * (two.flops - one.flops), two.peak

    lengths = [length for one in plain for length in one.lengths]
    return Case(
        work=f"MEMIT of {len(requests)} edits, {name}, {steps} steps",
        fast=fast,
        baseline=baseline,
        difference=difference,
        tolerance=TOLERANCE,
        gate=gate,
        aim=aim,
        sizes={
            "requests": len(requests),
            "steps": steps,
            "layers": list(layers),
            "contexts": len(templates),
            "mean_tokens": sum(lengths) / len(lengths),
        },
        repeats=1,
        count=count,
    )


def difference(found: ms.EditSet, expected: Mapping[int, torch.Tensor]) -> float:
    """Of the weights' changes, each relative to its norm: the largest."""
    return max(
        float((found.delta(f"blocks.{layer}.mlp.W_out") - change.cpu()).norm() / change.norm())
        for layer, change in expected.items()
    )


if __name__ == "__main__":
    sys.exit(main(figures, "MEMIT of a hundred requests"))
