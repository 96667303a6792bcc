"""One whole ROME edit, contexts and covariance given, against the textbook form with an explicit inverse."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from common import Case, Options, main, measure, textbook, textbook_edits
from rome_target import LAYER, NEW_TARGET, PREFIXES, STEPS, TOLERANCE, tokenised
from shapes import QUICK, contexts, fact, gpt2, moment

import mechstyle as ms


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """Target, keys in 21 contexts and the closed form of one request, without early stop."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    layer, steps = (1, 5) if options.quick else (LAYER, STEPS)
    request, templates = ms.EditRequest(fact(12, range(2, 5)), NEW_TARGET), contexts(PREFIXES)
    plain, covariance = tokenised(model, request, templates), moment(model.cfg.d_mlp)

    def fast() -> ms.EditSet:
        return ms.rome(
            model,
            request,
            layer=layer,
            covariance={layer: covariance},
            contexts=templates,
            target_options=ms.TargetOptions(steps=steps, early_stop=0.0),
            prepend_bos=False,
        )

    def baseline() -> tuple[torch.Tensor, textbook.Target]:
        return textbook_edits.rome(model, plain, layer=layer, covariance=covariance, steps=steps)

    yield measure(
        Case(
            work=f"ROME edit at layer {layer}",
            fast=fast,
            baseline=baseline,
            difference=difference,
            tolerance=TOLERANCE,
            gate=2.5,
            aim=6.0,
            sizes={"steps": steps, "contexts": len(templates), "tokens": plain.lengths},
        ),
        options,
    )


def difference(found: ms.EditSet, expected: tuple[torch.Tensor, textbook.Target]) -> float:
    """Of the weights' change, relative to its norm."""
    (parameter,) = found.parameters
    change = expected[0].cpu()
    return float((found.delta(parameter) - change).norm() / change.norm())


if __name__ == "__main__":
    sys.exit(main(figures, "One ROME edit"))
