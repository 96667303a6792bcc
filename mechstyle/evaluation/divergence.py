"""How far an edit moves what a model says next after prompts that the edit is not about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.answers import length_buckets
from mechstyle.cases import Case
from mechstyle.editing.memory import MemoryEdit
from mechstyle.errors import InputError, ModelError, NonFiniteError, TextError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.given import checked_texts, json_hash
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.metrics import kl_divergence
from mechstyle.models import HookedModel
from mechstyle.runs import logits
from mechstyle.tokens import EncodedPrompt, encode, pad

__all__ = ["Divergence"]


@dataclass(frozen=True)
class Divergence:
    """Divergence of the next-token distribution from the original model's, from a row a prompt.

    ``kl`` is ``KL(P_original || P_edited)`` in nats, after the prompt's last token: what Mitchell et al.
    (2022, MEND) keep small as the loss of locality. ``kl_reverse`` is ``KL(P_edited || P_original)``. The
    first one is large where the edited model no longer says what the original would, the second one where it
    says what the original would not. ``top_same`` tells whether the most probable token is the same.

    The original is the model when the measurement is prepared; its distributions are kept, in fp32 at least,
    on the CPU: ``4 * prompts * vocabulary`` bytes. Without an edit the divergence is 0, as long as the same
    batches give the same bits. Rounding can make a divergence that is about 0 less than 0, by less than 1e-9;
    it is given as 0.

    Under an edit in context the prompts stand behind its context; what an edit cache has for a prompt is said
    with probability ``1 - epsilon``.

    Args:
        prompts: that no edit is about.

    Raises:
        InputError: no prompts, or one string instead of a list.
        TextError: a prompt is blank.

    >>> [metric.name for metric in Divergence(("The day was",)).metrics]
    ['kl', 'kl_reverse', 'top_same']
    """

    name: ClassVar[str] = "divergence"
    about: ClassVar[About] = "model"
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", checked_texts("Divergence.prompts", self.prompts))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean divergences, and how often the most probable token stays."""
        return (
            Metric("kl", "kl", "divergence, original || edited", better="lower"),
            Metric("kl_reverse", "kl_reverse", "divergence, edited || original", better="lower"),
            Metric("top_same", "top_same", "same most probable token", better="higher"),
        )

    def settings(self) -> dict[str, Any]:
        """How many prompts there are, and their hash."""
        return {"n_prompts": len(self.prompts), "prompts_sha256": json_hash(list(self.prompts))}

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise the prompts, and read the original distributions.

        Raises:
            TextError: a prompt cannot be tokenised, or does not fit into the model's context.
            NonFiniteError: the model's logits are not finite numbers.
        """
        plain = self._encoded(model, "", conditions)
        original = _next_logprobs(model, plain, conditions.batch_size)

        def read(edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
            memory = edit if isinstance(edit, MemoryEdit) else None
            encoded = self._encoded(model, memory.context, conditions) if memory and memory.context else plain
            found = _next_logprobs(model, encoded, conditions.batch_size)
            if memory is not None:
                self._recall(model, memory, found, conditions)
            return [_row(index, *pair) for index, pair in enumerate(zip(original, found, strict=True))]

        return read

    def _encoded(self, model: HookedModel, context: str, conditions: Conditions) -> list[EncodedPrompt]:
        encoded = []
        for index, prompt in enumerate(self.prompts):
            try:
                encoded.append(encode(model, context + prompt, prepend_bos=conditions.prepend_bos))
            except ModelError:
                raise
            except InputError as error:
                behind = f" behind {context!r}" if context else ""
                raise TextError(f"Divergence.prompts[{index}], {prompt!r}{behind}: {error}") from error
        return encoded

    def _recall(
        self,
        model: HookedModel,
        edit: MemoryEdit,
        found: Float[Tensor, "prompt vocab"],
        conditions: Conditions,
    ) -> None:
        """Mix the first token of what is recalled into the distributions, in place."""
        bos = conditions.prepend_bos
        for row, recall in enumerate(edit.recall(model, self.prompts, prepend_bos=bos)):
            if recall is None:
                continue
            answer = encode(model, self.prompts[row], target=recall.answer, prepend_bos=bos)
            first = int(answer.target_ids[0])
            found[row] += math.log(recall.epsilon)
            found[row, first] = torch.logaddexp(
                found[row, first], found.new_tensor(math.log1p(-recall.epsilon))
            )


def _next_logprobs(
    model: HookedModel, encoded: Sequence[EncodedPrompt], batch_size: int
) -> Float[Tensor, "prompt vocab"]:
    """Log-probabilities of the token after each prompt, in fp32 at least, on the CPU."""
    rows: dict[int, Tensor] = {}
    for bucket in length_buckets([len(one) for one in encoded], batch_size):
        chosen = [encoded[row] for row in bucket]
        batch = pad(chosen, pad_id=0)
        last = torch.tensor([len(one) - 1 for one in chosen])
        skipped = int(last.min())
        run = logits(
            model, batch.ids, attention_mask=batch.attention_mask, n_last=batch.ids.shape[1] - skipped
        )
        scores = run[torch.arange(len(chosen), device=run.device), (last - skipped).to(run.device)]
        scores = scores if scores.dtype == torch.float64 else scores.float()
        rows.update(zip(bucket, scores.log_softmax(-1).cpu(), strict=True))
    found = torch.stack([rows[row] for row in range(len(encoded))])
    broken = ~found.isfinite().all(-1)
    if broken.any():
        raise NonFiniteError(
            f"model: a log-probability after {encoded[int(broken.nonzero()[0])].text!r} is not a finite "
            "number; look for NaN or overflow in the weights, or load the model in a wider dtype."
        )
    return found


def _row(index: int, original: Float[Tensor, " vocab"], edited: Float[Tensor, " vocab"]) -> Row:
    # In fp64, normalised anew there: a distribution rounded to fp32 does not quite sum to 1.
    first, second = original.double(), edited.double()
    return {
        "item": index,
        "kl": _at_least_0(kl_divergence(first, second)),
        "kl_reverse": _at_least_0(kl_divergence(second, first)),
        "top_same": bool(first.argmax() == second.argmax()),
    }


def _at_least_0(divergence: Float[Tensor, ""]) -> float:
    """The divergence without what rounding alone put below 0; what is further below is an error of ours."""
    value = float(divergence)
    assert value > -1e-9
    return max(0.0, value)
