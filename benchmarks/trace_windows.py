"""One fact's grids of windows of MLP or attention outputs, against plain hooks: one run a layer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from common import Options, main, measure
from shapes import QUICK, gpt2
from trace_resid import trace_case


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """The grid of MLP windows, then that of attention windows."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    yield measure(trace_case(model, "mlp", gate=3.0, aim=4.5), options)
    yield measure(trace_case(model, "attn", gate=3.0, aim=4.5), options)


if __name__ == "__main__":
    sys.exit(main(figures, "Causal trace of MLP and attention windows"))
