"""One fact's grid of single heads, against plain hooks: one run a layer and head, all tokens and draws."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from common import Options, main, measure
from shapes import QUICK, gpt2
from trace_resid import trace_case

SAMPLES = 2
"""Draws: few, since the textbook form takes a run for each layer and head."""


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """The grid of heads."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    yield measure(trace_case(model, "heads", gate=3.0, aim=4.5, samples=SAMPLES), options)


if __name__ == "__main__":
    sys.exit(main(figures, "Causal trace of single heads"))
