"""How a target is searched, and what is found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.keys import BARE
from mechstyle.errors import InputError, RangeError, TextError

__all__ = ["KlPosition", "Target", "TargetOptions", "TargetWarning"]

KlPosition = Literal["subject", "end"]


class TargetWarning(UserWarning):
    """A target was searched where no change can bring the answer about."""


@dataclass(frozen=True)
class TargetOptions:
    """How the wanted value is searched; the defaults are those of ROME's public code.

    Args:
        steps: loss evaluations; as published the last one does not step, so there are ``steps - 1`` updates.
        lr: of Adam.
        weight_decay: factor of ``‖δ‖ / ‖v₀‖²``.
        kl_factor: factor of the KL divergence from the unedited model after ``kl_prompt`` ("essence drift").
        clamp_norm: ``‖δ‖`` is kept at or below this multiple of ``‖v₀‖``.
        early_stop: stop before a step when the total loss is below this.
        kl_prompt: the subject's own prompt, with ``{}`` for the subject.
        kl_position: the KL is read at the subject's last token (``"subject"``, as in the code) or at the last
            token of the prompt (``"end"``, as in the paper).

    Raises:
        RangeError: a number is out of range.
        TextError: ``kl_prompt`` does not hold ``{}`` exactly once.
        InputError: an unknown ``kl_position``.

    >>> TargetOptions(steps=25, clamp_norm=3.0).lr
    0.5
    """

    steps: int = 20
    lr: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp_norm: float = 4.0
    early_stop: float = 0.05
    kl_prompt: str = "{} is a"
    kl_position: KlPosition = "subject"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise RangeError(f"TargetOptions.steps: expected an integer of 1 or more, got {self.steps!r}.")
        for name in ("lr", "clamp_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise RangeError(
                    f"TargetOptions.{name}: expected a finite number > 0, got {getattr(self, name)}."
                )
        for name in ("weight_decay", "kl_factor", "early_stop"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise RangeError(
                    f"TargetOptions.{name}: expected a finite number >= 0, got {getattr(self, name)}."
                )
        if self.kl_prompt.count(BARE) != 1:
            raise TextError(
                f"TargetOptions.kl_prompt: expected '{BARE}' exactly once, got {self.kl_prompt!r}."
            )
        if self.kl_position not in get_args(KlPosition):
            raise InputError(
                f"TargetOptions.kl_position: expected 'subject' or 'end', got {self.kl_position!r}."
            )


@dataclass(frozen=True, eq=False)
class Target:
    """What was found: the value wanted on the bare prompt is ``output + delta``.

    Args:
        delta: the change wanted at the subject's last token, fp32 (fp64 for fp64 models).
        output: the MLP output (or the layer's, by ``kind``) there on the bare prompt, before the edit.
        losses: total loss at each evaluation, first to last.
        answer_nll: its first part, mean over contexts of the mean over the new target's tokens of -log P, in
            nats.
    """

    delta: Float[Tensor, " d_model"]
    output: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    answer_nll: tuple[float, ...]
