"""What an edit does to everything else: perplexity of texts that have nothing to do with it."""

from __future__ import annotations

from collections.abc import Sequence

from mechstyle.answers import require_positive
from mechstyle.models import HookedModel
from mechstyle.texts import encode_texts, exp_mean, negative_log_likelihood

__all__ = ["perplexity"]


def perplexity(
    model: HookedModel,
    texts: Sequence[str],
    *,
    prepend_bos: bool | None = None,
    max_positions: int = 256,
    batch_size: int = 8,
) -> float:
    """Exponential of the mean negative log-likelihood of a token, over all tokens of all texts.

    Every predicted token counts once, so long texts weigh more; padding never counts. A text is **cut** to
    its first ``max_positions`` tokens (or the model's context, if that is shorter), BOS included. Without BOS
    a text's first token is not predicted.

    Args:
        prepend_bos: None means the model's default.
        batch_size: texts in one forward pass; it does not change the result.

    Raises:
        InputError: no texts, or one string instead of a list.
        TextError: a text has no token to predict.
        RangeError: ``max_positions`` is below 2 or ``batch_size`` below 1.
        ModelError: the log-likelihood is not a finite number.

    >>> perplexity(model, ["It was a dark and stormy night."])  # doctest: +SKIP
    21.3
    """
    require_positive("batch_size", batch_size)
    encoded = encode_texts(model, texts, prepend_bos=prepend_bos, max_positions=max_positions)
    return exp_mean(*negative_log_likelihood(model, encoded, batch_size=batch_size))
