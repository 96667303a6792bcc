"""How fine-tuning steps, and what it found on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mechstyle.errors import InputError, RangeError

__all__ = ["FinetuneLoss", "FinetuneOptions"]

FinetuneLoss = Literal["teacher-forced", "as-published"]


@dataclass(frozen=True)
class FinetuneOptions:
    """How fine-tuning steps; the defaults are those of ROME's public baseline.

    Args:
        steps: updates at most, each from one batch of prompts.
        lr: of Adam.
        weight_decay: of Adam (added to the gradient).
        early_stop: stop before an update when the mean loss of the new targets is below this; what is added
            to preserve texts does not count.
        norm_constraint: FT-L: after every update each weight is put back to within this distance of what it
            was; None is plain FT. Published for layer 0: 2e-3 (GPT-2 M), 1e-3 (L), 5e-4 (XL), 5e-5 (GPT-J).
        kl_factor: factor of the KL divergence from the model as it was, on what is to be preserved. None is
            1 where there is something to preserve and ``data_factor`` is 0, otherwise 0.
        data_factor: factor of the language-modelling loss on what is to be preserved ("added data").
        loss: ``"teacher-forced"``: each token of the new target is predicted after those before it.
            ``"as-published"``: all of them at the prompt's last token, as in the public code; the same for
            targets of one token, wrong for longer ones.
        batch_size: prompts in one update, drawn anew in each pass; None takes all.
        preserve_batch_size: preserved texts in one update.

    Raises:
        RangeError: a number is out of range.
        InputError: an unknown loss.

    Zhu et al. 2020 (the constraint), Meng et al. 2022 (the baselines FT and FT+L), Mitchell et al. 2022 (the
    KL divergence on other text).

    >>> FinetuneOptions(norm_constraint=5e-4).steps
    25
    """

    steps: int = 25
    lr: float = 5e-4
    weight_decay: float = 0.0
    early_stop: float = 1e-2
    norm_constraint: float | None = None
    kl_factor: float | None = None
    data_factor: float = 0.0
    loss: FinetuneLoss = "teacher-forced"
    batch_size: int | None = None
    preserve_batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "preserve_batch_size"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not whole and not (value is None and name == "batch_size"):
                raise RangeError(f"FinetuneOptions.{name}: expected an integer of 1 or more, got {value!r}.")
        if not _is_number(self.lr) or self.lr <= 0:
            raise RangeError(f"FinetuneOptions.lr: expected a finite number > 0, got {self.lr!r}.")
        for name in ("weight_decay", "early_stop", "norm_constraint", "kl_factor", "data_factor"):
            value = getattr(self, name)
            if value is None and name in ("norm_constraint", "kl_factor"):
                continue
            if not _is_number(value) or value < 0:
                raise RangeError(f"FinetuneOptions.{name}: expected a finite number >= 0, got {value!r}.")
        if self.loss not in get_args(FinetuneLoss):
            wanted = " or ".join(map(repr, get_args(FinetuneLoss)))
            raise InputError(f"FinetuneOptions.loss: expected {wanted}, got {self.loss!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
