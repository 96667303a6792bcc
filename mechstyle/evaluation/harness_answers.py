"""What the lm-evaluation-harness asks of a model, answered by our own runs, without the harness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import torch

from mechstyle.answers import AnswerScore, score_answers
from mechstyle.cases import Question
from mechstyle.editing.memory import MemoryEdit
from mechstyle.errors import InputError, TextError
from mechstyle.evaluation.contexts import context_tokens
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.generation import continue_encoded, encode_prompts
from mechstyle.evaluation.measure import Conditions
from mechstyle.evaluation.probes import Probe
from mechstyle.evaluation.readings import Reading
from mechstyle.models import HookedModel, resolve_bos
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["HarnessAnswers"]

_NEW_TOKENS: Final = 256
"""The harness's own default."""
_GREEDY: Final = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
"""Settings of generation that are known; those of sampling mean nothing without it."""


@dataclass(frozen=True, eq=False)
class HarnessAnswers:
    """The three kinds of questions of ``lm_eval.api.model.LM``, as plain functions of texts.

    Args:
        edit: the one that is active, whose context stands before everything and whose answers are looked up.
    """

    model: HookedModel
    edit: AnyEdit | None
    conditions: Conditions

    @property
    def memory(self) -> MemoryEdit | None:
        """The edit, where it is beside the weights."""
        return self.edit if isinstance(self.edit, MemoryEdit) else None

    @property
    def context(self) -> str:
        """What stands before everything."""
        return "" if self.memory is None else self.memory.context

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Log-probability in nats of each (context, continuation)'s continuation, and whether it is greedy.

        As in the harness, spaces at a context's end belong to the continuation, the continuation has the
        tokens that follow those of the context alone, and before an empty context stands BOS.

        Raises:
            TextError: a pair does not fit into the model's context; nothing is cut.
            ModelError: a context is empty, and the tokenizer has no BOS.

        >>> answers.loglikelihood([("Miles Davis plays the", " trumpet")])  # doctest: +SKIP
        [(-0.07, True)]
        """
        split = [_split(context, continuation) for context, continuation in pairs]
        encoded = [self._encoded(*pair) for pair in split]
        scored = score_answers(self.model, encoded, batch_size=self.conditions.batch_size)
        self._recall(split, encoded, scored)
        return [(one.logp, one.exact) for one in scored]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Log-probability in nats of all of each text's tokens, the first one after BOS.

        As in the harness, a text that is longer than the model's context is cut into windows, which hold the
        token before the first that they predict; the last window reaches back as far as it can.

        Raises:
            ModelError: the tokenizer has no BOS.
            TextError: an edit's context fills the model's context.

        >>> answers.loglikelihood_rolling(["The day was long."])  # doctest: +SKIP
        [-17.2]
        """
        windows = [(index, one) for index, text in enumerate(texts) for one in self._windows(text)]
        encoded = [one for _, one in windows]
        scored = score_answers(self.model, encoded, batch_size=self.conditions.batch_size)
        totals = [0.0] * len(texts)
        for (index, _), one in zip(windows, scored, strict=True):
            totals[index] += one.logp
        return totals

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What is written after each (context, settings), greedily, up to the first of the texts ``until``.

        ``max_gen_toks`` tokens (256 if not set), or as many as fit into the model's context.

        Raises:
            InputError: settings ask for sampling, or are unknown.
            TextError: a context is empty, or leaves no room in the model's context.

        >>> answers.generate_until([("Miles Davis plays the", {"until": ["."]})])  # doctest: +SKIP
        [' trumpet']
        """
        for _, settings in asked:
            _require_greedy(settings)
        bos, found = self.conditions.prepend_bos, dict[int, str]()
        groups: dict[int, list[int]] = {}
        prompts = [self.context + context for context, _ in asked]
        encoded = encode_prompts(self.model, prompts, n_tokens=1, prepend_bos=bos) if asked else []
        for index, one in enumerate(encoded):
            room = int(self.model.cfg.n_ctx) - len(one)
            wanted = asked[index][1].get("max_gen_toks", _NEW_TOKENS)
            groups.setdefault(min(room, wanted), []).append(index)
        for n_tokens, rows in groups.items():
            some, size = [encoded[row] for row in rows], self.conditions.batch_size
            found.update(
                zip(
                    rows,
                    continue_encoded(self.model, some, n_tokens=n_tokens, batch_size=size),
                    strict=True,
                )
            )
        if self.memory is not None and asked:
            recalled = self.memory.recall(self.model, [context for context, _ in asked], prepend_bos=bos)
            found |= {index: one.answer for index, one in enumerate(recalled) if one is not None}
        return [_cut(found[index], settings) for index, (_, settings) in enumerate(asked)]

    def _encoded(self, context: str, continuation: str) -> EncodedPrompt:
        bos = self.conditions.prepend_bos
        context, continuation = _split(self.context + context, continuation)
        if not context:
            return replace(encode(self.model, continuation, prepend_bos=True), n_prompt=1)
        n_prompt = len(encode(self.model, context, prepend_bos=bos))
        return replace(encode(self.model, context + continuation, prepend_bos=bos), n_prompt=n_prompt)

    def _recall(
        self, pairs: Sequence[tuple[str, str]], encoded: Sequence[EncodedPrompt], scored: list[AnswerScore]
    ) -> None:
        """Put the scores of what the edit has an answer for in their places."""
        if self.memory is None:
            return
        bos = self.conditions.prepend_bos
        asked = [index for index, (context, _) in enumerate(pairs) if context]
        recalled = self.memory.recall(self.model, [pairs[index][0] for index in asked], prepend_bos=bos)
        found = {index: one for index, one in zip(asked, recalled, strict=True) if one is not None}
        probes = []
        for index in found:
            context, continuation = pairs[index]
            question = Question("harness", "far", context, (continuation,))
            probes.append(Probe(index, "", None, question, (continuation,), (encoded[index],)))
        reading = Reading(self.model, probes, edit=self.memory)
        for index, (score,) in zip(
            found,
            reading.answers(list(found.values()), batch_size=self.conditions.batch_size),
            strict=True,
        ):
            scored[index] = score

    def _windows(self, text: str) -> Iterable[EncodedPrompt]:
        """A text's tokens in windows, each with those before its own that are only read."""
        resolve_bos(self.model, True)
        tokenizer = self.model.tokenizer
        first = torch.tensor([int(tokenizer.bos_token_id)])
        own = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).long()
        front = torch.tensor(context_tokens(self.model, self.context, own)).long()
        room = int(self.model.cfg.n_ctx) - len(front)
        if room < 1:
            raise TextError(
                f"edits: the {len(front)} tokens of the edit's context leave no room for a text in the "
                f"model's context of {int(self.model.cfg.n_ctx)}; take an edit of fewer requests."
            )
        borders = [*range(0, len(own), room), len(own)]
        for start, stop in pairwise(borders):
            if start == 0:
                ids, n_prompt = torch.cat([first, front, own[:stop]]), 1 + len(front)
            else:
                begin = stop - room - 1
                ids, n_prompt = torch.cat([front, own[begin:stop]]), len(front) + start - begin
            strings = tuple(tokenizer.convert_ids_to_tokens(ids.tolist()))
            yield EncodedPrompt(text, ids, strings, ((0, 0),) * len(ids), n_prompt, None, start == 0)


def _split(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the context's end go over to the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _require_greedy(settings: Mapping[str, Any]) -> None:
    unknown = sorted(set(settings) - _GREEDY)
    if settings.get("do_sample") or unknown:
        wrong = f"{unknown[0]}={settings[unknown[0]]!r}" if unknown else "do_sample=True"
        raise InputError(
            f"generation_kwargs: expected greedy generation with 'until' and 'max_gen_toks', got {wrong}; "
            "leave it out of the task's generation_kwargs."
        )


def _cut(text: str, settings: Mapping[str, Any]) -> str:
    until = settings.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
