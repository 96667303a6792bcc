"""How a model is read under an edit: what stands before prompts and texts, which answers are looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle.answers import AnswerScore, score_answers
from mechstyle.editing.edit import EditSet
from mechstyle.editing.memory import MemoryEdit, Recall
from mechstyle.errors import TextError
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
        bos = self.probes[0].new.prepend_bos
        return self.edit.recall(self.model, [one.prompt for one in self.probes], prepend_bos=bos)

    def answers(
        self, recalled: Sequence[Recall | None], *, batch_size: int, progress: bool = False
    ) -> list[tuple[AnswerScore, AnswerScore]]:
        """Scores of the new and of the true target of each probe.

        With a recalled answer ``a``, a target ``y`` has probability ``(1 - epsilon) Q(y) + epsilon P(y)``.
        ``P`` is the model and ``Q`` says ``a`` and then goes on as the model: ``Q`` is 1 for ``a`` and its
        beginnings, ``P(z | a)`` for ``a`` followed by ``z``, and else 0.
        """
        encoded = [one for probe in self.probes for one in (probe.new, probe.true)]
        scored = score_answers(self.model, encoded, batch_size=batch_size, progress=progress)
        said: dict[int, AnswerScore] = {}
        tails: dict[int, EncodedPrompt] = {}
        for index, one in enumerate(encoded):
            recall = recalled[index // 2]
            if recall is None:
                continue
            answer, target = self._tokens(self.probes[index // 2], recall), one.target_ids.tolist()
            agrees = answer[: len(target)] == target[: len(answer)]
            if agrees and len(target) > len(answer):
                tails[index] = replace(one, n_prompt=one.n_prompt + len(answer))
            else:
                said[index] = AnswerScore(0.0 if agrees else -math.inf, len(target), agrees)
        said |= zip(
            tails, score_answers(self.model, list(tails.values()), batch_size=batch_size), strict=True
        )
        for index, one_said in said.items():
            one_recall = recalled[index // 2]
            assert one_recall is not None
            scored[index] = _mixed(scored[index], one_said, one_recall.epsilon)
        return list(zip(scored[::2], scored[1::2], strict=True))

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

    def _tokens(self, probe: Probe, recall: Recall) -> list[int]:
        """The tokens of a recalled answer behind the probe's prompt."""
        bos = probe.new.prepend_bos
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
    front = _context_tokens(model, context, texts[0][int(prepend_bos) :]) if texts else []
    if front:
        texts = [_behind(model, index, front, ids, prepend_bos) for index, ids in enumerate(texts)]
    return Reading(model, probes, prompts, texts, len(front), memory)


def _mixed(own: AnswerScore, said: AnswerScore, epsilon: float) -> AnswerScore:
    """``(1 - epsilon) Q + epsilon P``; with epsilon below 1/2 what ``Q`` says is the most probable."""
    first, second = math.log1p(-epsilon) + said.logp, math.log(epsilon) + own.logp
    high, low = max(first, second), min(first, second)
    return AnswerScore(high + math.log1p(math.exp(low - high)), own.n_tokens, said.exact)


def _context_tokens(model: HookedModel, context: str, text: Int[Tensor, " pos"]) -> list[int]:
    """The context's own tokens, with the space at its end; texts behind it keep theirs, to be scored alike.

    Where a tokenizer writes a space before each text itself (SentencePiece), the context gives its own up.

    Args:
        text: one of the texts, without BOS.
    """
    if not context.strip():
        return []
    tokenizer, own = model.tokenizer, text.tolist()
    whole, bare = (
        list(tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"])
        for one in (context, context.rstrip())
    )
    wanted = context + tokenizer.decode(own, clean_up_tokenization_spaces=False)
    said = tokenizer.decode([*bare, *own], clean_up_tokenization_spaces=False)
    return bare if said == wanted else whole


def _behind(
    model: HookedModel, index: int, front: Sequence[int], ids: Int[Tensor, " pos"], prepend_bos: bool
) -> Int[Tensor, " pos"]:
    """A text's tokens with the context between them and BOS."""
    room = int(model.cfg.n_ctx)
    if len(front) + len(ids) > room:
        left = room - len(front)
        shorter = f"set max_positions (--max-positions) to {left} or less, or take" if left > 1 else "take"
        raise TextError(
            f"perplexity_texts[{index}]: its {len(ids)} tokens and {len(front)} of the edit's context do not "
            f"fit into the model's context of {room}; {shorter} an edit of fewer requests."
        )
    begin = int(prepend_bos)
    return torch.cat([ids[:begin], torch.tensor(front, dtype=ids.dtype), ids[begin:]])
