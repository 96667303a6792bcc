"""The options that say what a ledger looks at after each edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from mechstyle.editing.health import HealthCheck

__all__ = ["LIMITS", "Canary", "Health", "KnownFacts", "MaxDelta", "MaxPerplexity", "MinKnown"]

LIMITS: Final = MappingProxyType({"max_perplexity_ratio": 2, "max_delta_ratio": 10, "min_known": 0.5})
"""What help says of the defaults of ``HealthCheck``, whose module is too heavy for that; a test compares."""

Health = Annotated[
    bool,
    typer.Option(
        "--health",
        help="With --ledger: look at the model after each batch; where it is broken, put it back and stop.",
    ),
]
KnownFacts = Annotated[
    Path | None,
    typer.Option("--known-facts", help="With --ledger: facts that are to stay known; a JSON file."),
]
MaxPerplexity = Annotated[
    float | None,
    typer.Option(
        "--max-perplexity-ratio",
        help=f"With --ledger: of held-out text, to the unedited model's; {LIMITS['max_perplexity_ratio']}.",
    ),
]
MaxDelta = Annotated[
    float | None,
    typer.Option(
        "--max-delta-ratio",
        help=f"With --ledger: largest change of a weight, in its own norms; {LIMITS['max_delta_ratio']}.",
    ),
]
MinKnown = Annotated[
    float | None,
    typer.Option(
        "--min-known",
        help=f"With --ledger: least share of the known facts that is still known; {LIMITS['min_known']}.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Canary:
    """What was given of the options above; None is not given."""

    health: bool = False
    known_facts: Path | None = None
    max_perplexity_ratio: float | None = None
    max_delta_ratio: float | None = None
    min_known: float | None = None

    @property
    def given(self) -> bool:
        """Whether anything is to be looked at."""
        return self.health or any(value is not None for value in (self.known_facts, *self._limits.values()))

    @property
    def reads_text(self) -> bool:
        """Whether natural text is needed."""
        return self.health or self.max_perplexity_ratio is not None

    def check(
        self, model: str, text: str | None, *, seed: int, prepend_bos: bool | None
    ) -> HealthCheck | None:
        """The health check, or None when none was asked for.

        Args:
            model: the name that it is loaded by.
            text: a source of text; None is the model's own.

        Raises:
            InputError: no text for a model that brings none.
            FileError: a file is missing or of another kind.
            RangeError: a limit is out of range.
        """
        if not self.given:
            return None
        from mechstyle.datasets import read_fact_file
        from mechstyle.documents import documents_for
        from mechstyle.editing.health import HealthCheck

        limits = {name: value for name, value in self._limits.items() if value is not None}
        return HealthCheck(
            texts=documents_for(model, text, seed=seed).held_out if self.reads_text else (),
            facts=read_fact_file(self.known_facts) if self.known_facts is not None else (),
            prepend_bos=prepend_bos,
            **limits,
        )

    @property
    def _limits(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in LIMITS}
