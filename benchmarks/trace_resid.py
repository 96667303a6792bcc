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
    kind: Literal["resid", "mlp", "attn", "heads"],
    *,
    gate: float,
    aim: float | None,
    tokens: int = TOKENS,
    samples: int = SAMPLES,
    subject: range = SUBJECT,
    batch_size: int | None = None,
) -> Case:
    """The grid of one kind for one fact; both sides get the same draws and return [sample, token, layer].

    Heads are one more axis.
    """
    one = fact(tokens, subject)
    encoded = encode_fact(model, one, prepend_bos=False)
    assert (len(encoded), encoded.n_prompt, encoded.subject) == (tokens + 1, tokens, subject)
    generator, window = torch.Generator().manual_seed(0), default_window(model.cfg.n_layers)
    draws = torch.randn(samples, len(subject), model.cfg.d_model, generator=generator) * 0.06  # 3 sigma
    width = window if kind in ("mlp", "attn") else 1
    parts = range(model.cfg.n_heads) if kind == "heads" else [slice(None)]
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
            parts=parts,
        )

    def difference(trace: ms.Trace, expected: tuple[torch.Tensor, ...]) -> float:
        clean, corrupted, restored = (part.double().cpu().numpy() for part in expected)
        found = trace.data
        cells = restored.reshape(found[kind].shape)
        pairs = ((found.clean, clean), (found.corrupted, corrupted), (found[kind], cells))
        return max(float(abs(one.values - other).max()) for one, other in pairs)

    axis = f" x {len(parts)} heads" if kind == "heads" else ""
    width_of = f", windows of {window}" if kind in ("mlp", "attn") else ""
    return Case(
        work=f"trace {kind} {tokens} x {model.cfg.n_layers}{axis}{width_of}",
        fast=fast,
        baseline=baseline,
        difference=difference,
        tolerance=TOLERANCE,
        gate=gate,
        aim=aim,
        sizes={"tokens": tokens, "subject": list(subject), "samples": samples, "window": width}
        | ({"heads": len(parts)} if kind == "heads" else {}),
    )


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """The residual grid."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    yield measure(trace_case(model, "resid", gate=4.0, aim=6.0), options)


if __name__ == "__main__":
    sys.exit(main(figures, "Causal trace of the residual stream"))
