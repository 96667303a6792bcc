"""How facts are traced: the options of ``mechstyle trace`` that decide it, and the function they make."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from mechstyle.cli.options import spaced
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mechstyle.tracing.corrupted import Corruption
    from mechstyle.tracing.trace import Trace

__all__ = ["CorruptionName", "MetricName", "Tracing"]

NOISE = 3.0


class CorruptionName(StrEnum):
    """What is done to the subject."""

    GAUSSIAN = "gaussian"
    UNIFORM = "uniform"
    REPLACEMENT = "replacement"
    MEAN = "mean"


class MetricName(StrEnum):
    """What is measured."""

    PROB = "prob"
    LOGPROB = "logprob"
    NEG_KL = "neg_kl"


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """What the options say.

    Args:
        noise: multiples of sigma; None is the default.
        counterpart: a subject to take the place of the fact's own.
        contrast: another continuation, whose score is subtracted.
        tokens: sets of tokens as NAME=ROLE or NAME=INDEX,INDEX.
    """

    kinds: str
    metric: MetricName
    corruption: CorruptionName
    noise: float | None
    counterpart: str | None
    answer: str | None
    contrast: str | None
    answer_tokens: int | None
    tokens: tuple[str, ...]
    neuron_layer: int | None
    samples: int
    window: int | None
    prepend_bos: bool | None
    seed: int

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            InputError: they do not.
        """
        noisy = self.corruption in (CorruptionName.GAUSSIAN, CorruptionName.UNIFORM)
        if self.noise is not None and not noisy:
            raise InputError(f"--noise belongs to gaussian and uniform, not to {self.corruption.value}.")
        if self.counterpart is not None and self.corruption is not CorruptionName.REPLACEMENT:
            raise InputError("--counterpart belongs to --corruption replacement.")
        token_sets(self.tokens)

    def tracer(self, target: str | None = None) -> Callable[..., Trace]:
        """The tracing function with these options.

        Args:
            target: of the fact that is traced; None for many facts.

        Raises:
            InputError: the options do not go together.
        """
        self.check()
        from mechstyle.tracing.causal_trace import causal_trace

        given: dict[str, Any] = {
            "answer_tokens": self.answer_tokens,
            "tokens": token_sets(self.tokens) or None,
            "neuron_layer": self.neuron_layer,
            "window": self.window,
            "prepend_bos": self.prepend_bos,
            "answer": self._answer(target),
        }
        return partial(
            causal_trace,
            kinds=tuple(part.strip() for part in self.kinds.split(",")),
            metric=self.metric.value,
            corruption=self._corruption(),
            samples=self.samples,
            seed=self.seed,
            **{name: value for name, value in given.items() if value is not None},
        )

    def _corruption(self) -> Corruption:
        from mechstyle.tracing.corruption import GaussianNoise, UniformNoise
        from mechstyle.tracing.replacement import MeanAblation, TokenReplacement

        noise = NOISE if self.noise is None else self.noise
        made: dict[CorruptionName, Callable[[], Corruption]] = {
            CorruptionName.GAUSSIAN: lambda: GaussianNoise(noise),
            CorruptionName.UNIFORM: lambda: UniformNoise(noise),
            CorruptionName.REPLACEMENT: lambda: TokenReplacement(self.counterpart),
            CorruptionName.MEAN: MeanAblation,
        }
        return made[self.corruption]()

    def _answer(self, target: str | None) -> object:
        from mechstyle.tracing.targets import PREDICTED, Contrast

        answer = self.answer
        if answer is not None and answer != PREDICTED:
            answer = spaced(answer, "--answer")
        if self.contrast is None:
            return answer
        wanted = target if answer is None else answer
        if wanted is None or wanted == PREDICTED:
            raise InputError("--contrast: name the continuation that it is compared with by --answer.")
        return Contrast(wanted, spaced(self.contrast, "--contrast"))


def token_sets(words: tuple[str, ...]) -> dict[str, list[int] | str]:
    """The sets of tokens that ``--tokens`` names.

    Raises:
        InputError: a word is not NAME=ROLE or NAME=INDEX,INDEX.
    """
    found: dict[str, list[int] | str] = {}
    for word in words:
        name, mark, where = word.partition("=")
        if not name or not mark or not where:
            raise InputError(
                "--tokens: expected NAME=ROLE or NAME=INDEX,INDEX, such as end='last prompt token'; "
                f"got {word!r}."
            )
        parts = [part.strip() for part in where.split(",")]
        found[name] = [int(part) for part in parts] if all(part.isdecimal() for part in parts) else where
    return found
