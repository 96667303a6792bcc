"""The value that ROME writes for one request, against whole runs of all contexts in one padded batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from common import Case, Options, main, measure, textbook, textbook_edits
from shapes import QUICK, contexts, fact, gpt2

import mechstyle as ms
from mechstyle.editing.targets import Target, optimise_target
from mechstyle.tokens import EncodedPrompt, encode, encode_fact

LAYER, STEPS, NEW_TARGET = 5, 20, " y"
PREFIXES = (5,) * 10 + (10,) * 10
TOLERANCE = 1e-3
"""Of delta, relative to its length: Adam divides by the gradients' own size, which amplifies rounding."""


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """One target: 20 losses and 19 updates over 21 contexts, without early stop."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    layer, steps = (1, 5) if options.quick else (LAYER, STEPS)
    request = ms.EditRequest(fact(12, range(2, 5)), NEW_TARGET)
    templates = contexts(PREFIXES)
    target_options = ms.TargetOptions(steps=steps, early_stop=0.0)

    plain = tokenised(model, request, templates)

    def fast() -> Target:
        return optimise_target(
            model, request, layer=layer, contexts=templates, options=target_options, prepend_bos=False
        )

    def baseline() -> textbook.Target:
        return textbook.target(model, plain.contexts, plain.own, layer=layer, steps=steps)

    yield measure(
        Case(
            work=f"ROME target at layer {layer}",
            fast=fast,
            baseline=baseline,
            difference=difference,
            tolerance=TOLERANCE,
            gate=3.0,
            aim=6.0,
            sizes={"steps": steps, "contexts": len(templates), "tokens": plain.lengths},
        ),
        options,
    )


def tokenised(
    model: Any, request: ms.EditRequest, templates: Sequence[str], kl_prompt: str = "{} is a"
) -> textbook_edits.Request:
    """A request as the textbook form takes it."""
    contexts = [
        encode_fact(model, request.fact, target=request.new_target, template=template, prepend_bos=False)
        for template in templates
    ]
    start, subject = kl_prompt.index("{}"), request.fact.subject
    place = (start, start + len(subject))
    own = encode(model, kl_prompt.format(subject), subject_offsets=place, prepend_bos=False)
    return textbook_edits.Request(tuple(map(row, contexts)), row(own))


def row(one: EncodedPrompt) -> textbook.Row:
    """What the textbook form needs to know of a prompt."""
    assert one.subject is not None
    return textbook.Row(one.ids.tolist(), one.n_prompt, one.subject[-1])


def difference(found: Target, expected: textbook.Target) -> float:
    """Of delta, relative to its length, or of a loss, relative to the first: whichever is more."""
    pairs = zip(found.losses, expected.losses, strict=True)
    of_losses = max(abs(one - other) for one, other in pairs) / expected.losses[0]
    return max(float((found.delta - expected.delta).norm() / expected.delta.norm()), of_losses)


if __name__ == "__main__":
    sys.exit(main(figures, "One ROME target"))
