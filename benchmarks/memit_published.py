"""MEMIT of a hundred requests on GPT-2 small, in the 25 steps of the public code: a quarter of an hour."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from common import Options, main, measure
from memit_edits import random_case

STEPS = 25


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """As the first row of `memit_edits.py`, but for the steps."""
    yield measure(random_case(options, steps=STEPS, gate=4.0), options)


if __name__ == "__main__":
    sys.exit(main(figures, "MEMIT of a hundred requests, 25 steps"))
