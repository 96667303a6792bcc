"""What a trace asks for: the fact's own answer, another one, or one continuation against another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.models import HookedModel
from mechstyle.runs import logits
from mechstyle.tokens import EncodedPrompt
from mechstyle.tracing.answer import METRICS, Metric, Question

__all__ = ["PREDICTED", "Answer", "Asked", "Contrast", "Target"]

PREDICTED = "predicted"


@dataclass(frozen=True)
class Contrast:
    """One continuation against another after the same prompt: the metric of `wanted` minus that of `other`.

    The continuations may have any lengths: a whole styled continuation against its neutral twin. For single
    tokens and log-probabilities it is the logit difference.

    Attributes:
        wanted: the exact continuation, leading space included.
        other: what it is compared with.
        per_token: divide each log-probability by the continuation's number of tokens, so that a longer one is
            not the less probable for its length.

    Raises:
        TextError: a continuation is empty, or both are the same.

    Example:
        >>> causal_trace(model, fact, answer=Contrast(" the horn, baby", " the trumpet"), metric="logprob")
    """

    wanted: str
    other: str
    per_token: bool = False

    def __post_init__(self) -> None:
        for name in ("wanted", "other"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise TextError(f"Contrast.{name}: expected a continuation of the prompt, got {text!r}.")
        if self.wanted == self.other:
            raise TextError(f"Contrast: expected two different continuations, got {self.wanted!r} twice.")


Answer = str | Contrast | None
"""None is the fact's target, "predicted" the model's own top token, else what is to be scored."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One question and its share in the value of a run."""

    weight: float
    question: Question


@dataclass(frozen=True, eq=False)
class Target:
    """The continuations to score, checked before anything is run.

    Attributes:
        texts: exact continuations, the wanted one first; None where the model's own top token is meant.
        source: "target", "predicted", "given" or "contrast".
        answer_tokens: score at most so many tokens of each continuation.
    """

    texts: tuple[str, ...] | None
    source: str
    metric: Metric
    per_token: bool
    answer_tokens: int | None

    @classmethod
    def checked(cls, answer: Answer, *, own: str | None, metric: Metric, answer_tokens: int | None) -> Target:
        """Make sure that answer and metric go together.

        Args:
            own: the fact's target; None for a prompt without one.

        Raises:
            InputError: an unknown metric, or an answer that the metric does not use.
            TextError: the answer is empty, or none is known.
            RangeError: `answer_tokens` is below 1.
        """
        named = isinstance(metric, str)
        if metric not in METRICS if named else not callable(metric):
            raise InputError(
                f"metric: expected one of {', '.join(METRICS)}, or a function of logits, got {metric!r}."
            )
        if answer_tokens is not None:
            _require_count("answer_tokens", answer_tokens)
        if metric == "neg_kl":
            if answer is not None:
                raise InputError(
                    f"answer: 'neg_kl' compares whole next-token distributions and scores no answer, got "
                    f"{answer!r}. Leave the answer out, or choose 'logprob'."
                )
            answer_tokens = 1
        if isinstance(answer, Contrast):
            if not named:
                raise InputError(
                    "metric: a function of logits cannot tell the continuations of a Contrast apart. "
                    "Choose 'logprob' or 'prob', or let the function itself compare two tokens."
                )
            texts = (answer.wanted, answer.other)
            return cls(texts, "contrast", metric, answer.per_token, answer_tokens)
        if answer is None and own is None and (metric == "neg_kl" or not named):
            answer = PREDICTED  # It is not scored, but gives the run the position that is.
        if answer == PREDICTED:
            return cls(None, PREDICTED, metric, False, answer_tokens)
        text = own if answer is None else answer
        if not isinstance(text, str) or not text.strip():
            raise TextError(
                "answer: expected the continuation to score, a Contrast, 'predicted', or None for a Fact's "
                f"own target, got {text!r}."
            )
        return cls((text,), "target" if answer is None else "given", metric, False, answer_tokens)

    def encoded(self, encode: Callable[[str], EncodedPrompt]) -> list[EncodedPrompt]:
        """The prompt with each continuation; alone where the answer is still to be predicted.

        Args:
            encode: from a continuation to the prompt and it.

        Raises:
            TextError: as `encode`, or the prompt's tokens depend on the continuation.
        """
        found = [encode(text) for text in self.texts or ("",)]
        for one in found[1:]:
            if not torch.equal(_prompt(one), _prompt(found[0])):
                raise TextError(
                    "answer: both continuations of a Contrast must leave the prompt's tokens as they are, "
                    f"but with {self.texts} they are {list(found[0].strings[: found[0].n_prompt])} and "
                    f"{list(one.strings[: one.n_prompt])}. Begin both with a space, or neither."
                )
        return found

    def asked(self, model: HookedModel, encoded: Sequence[EncodedPrompt]) -> tuple[Asked, ...]:
        """The questions about encoded prompts; continuations that share a run share a question."""
        if self.texts is None:
            encoded = [_with_predicted(model, encoded[0])]
        cut = [_first_tokens(one, self.answer_tokens) for one in encoded]
        questions = [Question(one, self.metric, self.per_token) for one in cut]
        if len(questions) == 1:
            return (Asked(1.0, questions[0]),)
        wanted, other = questions
        if torch.equal(wanted.encoded.ids, other.encoded.ids):
            raise TextError(
                f"answer: the first {wanted.n_answer} tokens of both continuations of the Contrast are the "
                f"same, {list(wanted.encoded.strings[wanted.encoded.n_prompt :])}. Score more tokens."
            )
        if torch.equal(wanted.ids, other.ids):
            return (Asked(1.0, replace(wanted, other=other.encoded.target_ids)),)
        return Asked(1.0, wanted), Asked(-1.0, other)

    def record(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """What is scored, for provenance."""
        question = asked[0].question
        encoded, contrast = question.encoded, None
        if self.source == "contrast":
            assert self.texts is not None
            other = question.other if len(asked) == 1 else asked[1].question.encoded.target_ids
            assert other is not None
            contrast = {
                "wanted": self.texts[0],
                "other": self.texts[1],
                "other_tokens": other.tolist(),
                "per_token": self.per_token,
            }
        return {
            "answer": encoded.text[encoded.offsets[encoded.n_prompt][0] :],
            "answer_tokens": encoded.target_ids.tolist(),
            "answer_limit": self.answer_tokens,
            "answer_source": self.source,
            "contrast": contrast,
            "metric": question.metric_name + ("" if contrast is None else " difference"),
        }


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RangeError(f"{name}: expected a whole number of at least 1, got {value!r}.")


def _prompt(encoded: EncodedPrompt) -> Tensor:
    return encoded.ids[: encoded.n_prompt]


def _first_tokens(encoded: EncodedPrompt, count: int | None) -> EncodedPrompt:
    """The prompt with so many tokens of its answer."""
    stop = len(encoded) if count is None else min(len(encoded), encoded.n_prompt + count)
    return replace(
        encoded,
        text=encoded.text[: encoded.offsets[stop - 1][1]],
        ids=encoded.ids[:stop],
        strings=encoded.strings[:stop],
        offsets=encoded.offsets[:stop],
    )


def _with_predicted(model: HookedModel, encoded: EncodedPrompt) -> EncodedPrompt:
    """Append the model's own top token (its id: its text alone might be tokenised in another way)."""
    if len(encoded) == model.cfg.n_ctx:
        raise TextError(
            f"prompt: too long, {len(encoded)} tokens leave no room for the answer "
            f"in a context of {model.cfg.n_ctx}."
        )
    top = logits(model, encoded.ids[None], n_last=1)[0, -1].argmax().cpu()
    text = str(model.tokenizer.decode([int(top)]))
    start = len(encoded.text)
    return replace(
        encoded,
        text=encoded.text + text,
        ids=torch.cat([encoded.ids, top[None]]),
        strings=(*encoded.strings, text),
        offsets=(*encoded.offsets, (start, start + len(text))),
    )
