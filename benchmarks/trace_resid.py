"""One fact's grid of restored residual states, against plain hooks: one run a layer, all tokens and draws."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Literal

import torch
from common import Case, Options, main, measure, textbook
from shapes import QUICK, fact, gpt2

import mechstyle as ms
from mechstyle.tokens import encode_fact
from mechstyle.tracing.grid import default_window

SUBJECT = range(2, 5)
TOKENS, SAMPLES = 12, 10
TOLERANCE = 1e-5


def trace_case(
    model: Any,
    kind: Literal["resid", "mlp", "attn"],
    *,
    gate: float,
    aim: float | None,
    tokens: int = TOKENS,
    samples: int = SAMPLES,
    subject: range = SUBJECT,
    batch_size: int | None = None,
) -> Case:
    """The grid of one kind for one fact; both sides get the same draws and return [sample, token, layer]."""
    one = fact(tokens, subject)
    encoded = encode_fact(model, one, prepend_bos=False)
    assert (len(encoded), encoded.n_prompt, encoded.subject) == (tokens + 1, tokens, subject)
    generator, window = torch.Generator().manual_seed(0), default_window(model.cfg.n_layers)
    draws = torch.randn(samples, len(subject), model.cfg.d_model, generator=generator) * 0.06  # 3 sigma
    width = 1 if kind == "resid" else window
    device_draws, ids = draws.to(model.cfg.device), encoded.ids.tolist()

    def fast() -> ms.Trace:
        return ms.causal_trace(
            model,
            one,
            kinds=(kind,),
            noise=draws,
            metric="logprob",
            window=window,
            prepend_bos=False,
            batch_size=batch_size,
        )

    def baseline() -> tuple[torch.Tensor, ...]:
        return textbook.trace(
            model,
            ids,
            n_prompt=tokens,
            subject=subject,
            draws=device_draws,
            kind=kind,
            width=width,
            tokens_at_once=tokens,
        )

    def difference(trace: ms.Trace, expected: tuple[torch.Tensor, ...]) -> float:
        clean, corrupted, restored = (part.double().cpu().numpy() for part in expected)
        found = trace.data
        pairs = ((found.clean, clean), (found.corrupted, corrupted), (found[kind], restored))
        return max(float(abs(one.values - other).max()) for one, other in pairs)

    width_of = "" if kind == "resid" else f", windows of {window}"
    return Case(
        work=f"trace {kind} {tokens} x {model.cfg.n_layers}{width_of}",
        fast=fast,
        baseline=baseline,
        difference=difference,
        tolerance=TOLERANCE,
        gate=gate,
        aim=aim,
        sizes={"tokens": tokens, "subject": list(subject), "samples": samples, "window": width},
    )


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """The residual grid."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    yield measure(trace_case(model, "resid", gate=4.0, aim=6.0), options)


if __name__ == "__main__":
    sys.exit(main(figures, "Causal trace of the residual stream"))
