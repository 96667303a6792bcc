"""Second moments of five layers' keys in one truncated pass, against one whole pass for each layer."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from common import Case, Options, main, measure, textbook
from shapes import QUICK, documents, gpt2

import mechstyle as ms
from mechstyle.editing.covariance import CovarianceWarning

LAYERS, LONGEST, BATCH = range(3, 8), 256, 16
TOKENS = 4_096
"""Both sides take time in proportion to the tokens."""
TOLERANCE = 1e-5
"""Of a matrix, relative to its largest entry."""


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """Five layers in one pass."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    layers = range(2) if options.quick else LAYERS
    n_tokens, longest = (400, 32) if options.quick else (TOKENS, LONGEST)
    texts = documents(n_tokens, longest)
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    assert sum(map(len, ids)) == n_tokens

    def fast() -> ms.Covariance:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CovarianceWarning)  # few keys: here only the time matters
            return ms.covariance(
                model,
                texts,
                layers=list(layers),
                n_keys=n_tokens,
                prepend_bos=False,
                batch_size=BATCH,
                max_positions=longest,
            )

    def baseline() -> dict[int, torch.Tensor]:
        return textbook.second_moments(model, ids, layers=layers, batch_size=BATCH)

    yield measure(
        Case(
            work=f"covariance of {len(layers)} layers",
            fast=fast,
            baseline=baseline,
            difference=difference,
            tolerance=TOLERANCE,
            gate=4.0,
            aim=5.0,
            sizes={"tokens": n_tokens, "documents": len(texts), "longest": longest, "layers": list(layers)},
        ),
        options,
    )


def difference(found: ms.Covariance, expected: dict[int, torch.Tensor]) -> float:
    """Largest difference of an entry, relative to the largest entry of its matrix."""
    return max(
        float((found[layer] - matrix.cpu()).abs().max() / matrix.abs().max())
        for layer, matrix in expected.items()
    )


if __name__ == "__main__":
    sys.exit(main(figures, "Second moments of keys"))
