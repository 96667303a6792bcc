"""Essence: whether texts about the subject of an edit stay as probable as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mechstyle.cases import Case
from mechstyle.editing.memory import MemoryEdit
from mechstyle.errors import RangeError
from mechstyle.evaluation.contexts import behind_context, context_tokens
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.models import HookedModel
from mechstyle.texts import encode_text, text_losses

__all__ = ["Essence"]

METRICS: Final = (Metric("essence", "nll", "perplexity", weight="n_tokens", exponential=True, better="same"),)


@dataclass(frozen=True)
class Essence:
    """Perplexity of each case's texts about its subject; what an edit adds to it is its essence drift.

    The measure of Meng et al. (2022): an edit of one fact about a subject should leave the rest of what is
    said of it as it is. A row is a text: ``nll`` in nats over its ``n_tokens`` predicted tokens. The
    published code puts a case's texts together, cuts them once, and divides by one token more than it
    predicts.

    Under an edit in context, texts stand behind the context, and only their own tokens are scored. Texts are
    no prompts: an edit cache looks nothing up for them.

    Args:
        max_positions: tokens after which a text is cut, BOS included.

    Raises:
        RangeError: ``max_positions`` is below 2.

    Example:
        >>> Essence().settings()
        {'max_positions': 100}
    """

    name: ClassVar[str] = "essence"
    about: ClassVar[About] = "requests"
    max_positions: int = 100

    def __post_init__(self) -> None:
        whole = isinstance(self.max_positions, int) and not isinstance(self.max_positions, bool)
        if not whole or self.max_positions < 2:
            raise RangeError(
                f"max_positions: expected a whole number of 2 or more, got {self.max_positions!r}."
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The texts' perplexity, best left as it was."""
        return METRICS

    def settings(self) -> dict[str, Any]:
        """Where texts are cut."""
        return {"max_positions": self.max_positions}

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise and cut every text.

        Raises:
            TextError: a text has no token to predict; case and text are named.
        """
        bos = conditions.prepend_bos
        plain = [
            [
                encode_text(
                    model, text, name=_where(index, place), prepend_bos=bos, max_positions=self.max_positions
                )
                for place, text in enumerate(case.essence)
            ]
            for index, case in enumerate(cases)
        ]

        first = next((ids[int(bos) :] for of_case in plain for ids in of_case), None)

        def read(edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
            context = edit.context if isinstance(edit, MemoryEdit) else ""
            front = [] if first is None else context_tokens(model, context, first)
            places = [(index, place) for index in indices for place in range(len(plain[index]))]
            texts = [
                behind_context(
                    model,
                    front,
                    plain[index][place],
                    name=_where(index, place),
                    setting="max_positions",
                    prepend_bos=bos,
                )
                for index, place in places
            ]
            losses = text_losses(model, texts, batch_size=conditions.batch_size, n_context=len(front))
            return [
                {
                    "request": index,
                    "subject": cases[index].request.fact.subject,
                    "relation": cases[index].request.fact.relation,
                    "item": f"text {place}",
                    "nll": nll,
                    "n_tokens": n_tokens,
                }
                for (index, place), (nll, n_tokens) in zip(places, losses, strict=True)
            ]

        return read


def _where(index: int, place: int) -> str:
    return f"requests[{index}], essence[{place}]"
