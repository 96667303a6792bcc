"""What an edit does to texts that have nothing to do with it, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mechstyle.cases import Case
from mechstyle.editing.memory import MemoryEdit
from mechstyle.evaluation.contexts import behind_context, context_tokens
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.given import checked_texts, json_hash
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.models import HookedModel
from mechstyle.texts import encode_texts, text_losses

__all__ = ["HeldOutPerplexity"]


@dataclass(frozen=True)
class HeldOutPerplexity:
    """Perplexity of held-out texts, from a row a text: ``exp(sum of nll / sum of n_tokens)``.

    Every predicted token counts once, as in ``perplexity``, so long texts weigh more; an interval resamples
    texts. Under an edit in context each text stands behind the context, and only its own tokens are scored;
    an edit cache looks nothing up for texts.

    Columns: ``nll`` in nats, summed over the tokens that are predicted, and ``n_tokens``, their number.

    Args:
        texts: natural text that no edit is about.
        max_positions: tokens after which a text is cut, BOS included.

    Raises:
        InputError: no texts, or one string instead of a list.
        TextError: a text is blank.

    >>> HeldOutPerplexity(("It was a dark and stormy night.",)).metrics[0].name
    'perplexity'
    """

    name: ClassVar[str] = "perplexity"
    about: ClassVar[About] = "model"
    texts: tuple[str, ...]
    max_positions: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", checked_texts("HeldOutPerplexity.texts", self.texts))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One: the texts' perplexity, all together."""
        return (
            Metric("perplexity", "nll", "perplexity", weight="n_tokens", exponential=True, better="same"),
        )

    def settings(self) -> dict[str, Any]:
        """How many texts there are, their hash, and where they are cut."""
        return {
            "n_texts": len(self.texts),
            "texts_sha256": json_hash(list(self.texts)),
            "max_positions": self.max_positions,
        }

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise and cut the texts.

        Raises:
            TextError: a text has no token to predict.
            RangeError: ``max_positions`` is below 2.
        """
        bos = conditions.prepend_bos
        plain = encode_texts(model, self.texts, prepend_bos=bos, max_positions=self.max_positions)

        def read(edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
            texts, context = plain, edit.context if isinstance(edit, MemoryEdit) else ""
            front = context_tokens(model, context, plain[0][int(bos) :])
            if front:
                texts = [
                    behind_context(
                        model,
                        front,
                        ids,
                        name=f"HeldOutPerplexity.texts[{index}]",
                        setting="max_positions",
                        prepend_bos=bos,
                    )
                    for index, ids in enumerate(plain)
                ]
            losses = text_losses(model, texts, batch_size=conditions.batch_size, n_context=len(front))
            return [
                {"item": index, "nll": nll, "n_tokens": n_tokens}
                for index, (nll, n_tokens) in enumerate(losses)
            ]

        return read
