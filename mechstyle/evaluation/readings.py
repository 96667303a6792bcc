"""How a model is read under an edit: what stands before prompts and texts, which answers are looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from jaxtyping import Int
from torch import Tensor

from mechstyle.answers import AnswerScore, score_answers
from mechstyle.editing.edit import EditSet
from mechstyle.editing.memory import MemoryEdit, Recall
from mechstyle.evaluation.contexts import behind_context, context_tokens
from mechstyle.evaluation.generation import continue_encoded, encode_prompts
from mechstyle.evaluation.probes import Probe, in_context
from mechstyle.models import HookedModel
from mechstyle.texts import negative_log_likelihood
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["Reading", "read_under"]


@dataclass(frozen=True, eq=False)
class Reading:
    """Everything that is asked of a model in one stage, tokenised.

    Args:
        probes: with the edit's context in front.
        prompts: the same prompts to be continued freely; empty when nothing is generated.
        texts: token ids for perplexity, the context in front.
        n_context: tokens of each text that belong to the context; they are not scored.
        edit: to look answers up in; None when the model speaks for itself.
    """

    model: HookedModel
    probes: Sequence[Probe]
    prompts: Sequence[EncodedPrompt] = ()
    texts: Sequence[Int[Tensor, " pos"]] = ()
    n_context: int = 0
    edit: MemoryEdit | None = None

    def recalled(self) -> tuple[Recall | None, ...]:
        """What the edit has for each probe's prompt."""
        if self.edit is None or not self.probes:
            return (None,) * len(self.probes)
        bos = self.probes[0].encoded[0].prepend_bos
        return self.edit.recall(self.model, [one.prompt for one in self.probes], prepend_bos=bos)

    def answers(
        self, recalled: Sequence[Recall | None], *, batch_size: int, progress: bool = False
    ) -> list[tuple[AnswerScore, ...]]:
        """Scores of each probe's targets.

        With a recalled answer ``a``, a target ``y`` has probability ``(1 - epsilon) Q(y) + epsilon P(y)``.
        ``P`` is the model and ``Q`` says ``a`` and then goes on as the model: ``Q`` is 1 for ``a`` and its
        beginnings, ``P(z | a)`` for ``a`` followed by ``z``, and else 0.
        """
        of = [probe for probe, one in enumerate(self.probes) for _ in one.encoded]
        encoded = [one for probe in self.probes for one in probe.encoded]
        scored = score_answers(self.model, encoded, batch_size=batch_size, progress=progress)
        tails = self._tails(recalled, encoded, of, batch_size)
        for index, own in enumerate(scored):
            recall = recalled[of[index]]
            if recall is not None:
                target, answer = encoded[index].target_ids.tolist(), self._tokens(of[index], recall)
                said = tails[index] if index in tails else _said(target, answer, own)
                scored[index] = _mixed(own, said, recall.epsilon)
        each = iter(scored)
        return [tuple(islice(each, len(probe.encoded))) for probe in self.probes]

    def completions(self, recalled: Sequence[Recall | None], *, n_tokens: int, batch_size: int) -> list[str]:
        """What is written after each prompt: the recalled answer, else the model's greedy continuation."""
        own = continue_encoded(self.model, self.prompts, n_tokens=n_tokens, batch_size=batch_size)
        return [text if one is None else one.answer for text, one in zip(own, recalled, strict=True)]

    def nll(self, *, batch_size: int) -> tuple[float, int]:
        """Negative log-likelihood of the texts' own tokens, in nats, and their number.

        Texts are no prompts: nothing is looked up for them.
        """
        if not self.texts:
            return 0.0, 0
        return negative_log_likelihood(
            self.model, self.texts, batch_size=batch_size, n_context=self.n_context
        )

    def _tails(
        self,
        recalled: Sequence[Recall | None],
        encoded: Sequence[EncodedPrompt],
        of: Sequence[int],
        batch_size: int,
    ) -> dict[int, AnswerScore]:
        """``Q`` of the targets that begin with the recalled answer and go on behind it."""
        tails: dict[int, EncodedPrompt] = {}
        for index, one in enumerate(encoded):
            recall = recalled[of[index]]
            if recall is not None:
                answer, target = self._tokens(of[index], recall), one.target_ids.tolist()
                if len(target) > len(answer) and target[: len(answer)] == answer:
                    tails[index] = replace(one, n_prompt=one.n_prompt + len(answer))
        scored = score_answers(self.model, list(tails.values()), batch_size=batch_size)
        found = {}
        for index, one_scored in zip(tails, scored, strict=True):
            n_said = len(encoded[index].target_ids) - one_scored.n_tokens
            found[index] = AnswerScore(one_scored.logp, (True,) * n_said + one_scored.right)
        return found

    def _tokens(self, index: int, recall: Recall) -> list[int]:
        """The tokens of a recalled answer behind the probe's prompt."""
        probe = self.probes[index]
        bos = probe.encoded[0].prepend_bos
        ids: list[int] = encode(
            self.model, probe.prompt, target=recall.answer, prepend_bos=bos
        ).target_ids.tolist()
        return ids


def read_under(
    model: HookedModel,
    edit: EditSet | MemoryEdit | None,
    probes: Sequence[Probe],
    *,
    texts: Sequence[Int[Tensor, " pos"]],
    n_tokens: int,
    prepend_bos: bool,
) -> Reading:
    """Tokenise what is asked under an edit, so that nothing can go wrong with texts later.

    Args:
        n_tokens: to generate after each prompt; 0 generates nothing.

    Raises:
        TextError: with the edit's context in front, a prompt or text does not fit into the model's context.
    """
    memory = edit if isinstance(edit, MemoryEdit) else None
    context = "" if memory is None else memory.context
    probes = in_context(model, probes, context, prepend_bos=prepend_bos)
    prompts: Sequence[EncodedPrompt] = ()
    if n_tokens:
        written = [context + probe.prompt for probe in probes]
        prompts = encode_prompts(model, written, n_tokens=n_tokens, prepend_bos=prepend_bos)
    front = context_tokens(model, context, texts[0][int(prepend_bos) :]) if texts else []
    if front:
        texts = [
            behind_context(
                model,
                front,
                ids,
                name=f"perplexity_texts[{index}]",
                setting="max_positions (--max-positions)",
                prepend_bos=prepend_bos,
            )
            for index, ids in enumerate(texts)
        ]
    return Reading(model, probes, prompts, texts, len(front), memory)


def _mixed(own: AnswerScore, said: AnswerScore, epsilon: float) -> AnswerScore:
    """``(1 - epsilon) Q + epsilon P``; with epsilon below 1/2 what ``Q`` says is the most probable."""
    first, second = math.log1p(-epsilon) + said.logp, math.log(epsilon) + own.logp
    high, low = max(first, second), min(first, second)
    return AnswerScore(high + math.log1p(math.exp(low - high)), said.right)


def _said(target: Sequence[int], answer: Sequence[int], own: AnswerScore) -> AnswerScore:
    """``Q`` of a target that does not go on behind the recalled answer; once they part, ``P`` speaks."""
    agree = sum(takewhile(bool, (one == other for one, other in zip(target, answer, strict=False))))
    if agree == len(target):
        return AnswerScore(0.0, (True,) * agree)
    return AnswerScore(-math.inf, (*(True,) * agree, False, *own.right[agree + 1 :]))
