"""What every experiment on two runs starts from: a clean side, a corrupted side and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.hooks import hooks_by_place
from mechstyle.models import HookedModel, edited_weights, require_hooked
from mechstyle.tokens import EncodedPrompt, encode, encode_fact
from mechstyle.tracing.answer import Metric, Question
from mechstyle.tracing.corrupted import Corrupted, Corruption
from mechstyle.tracing.corruption import GaussianNoise
from mechstyle.tracing.sides import Side
from mechstyle.tracing.targets import Answer, Asked, Target

__all__ = ["Asked", "Setup", "prepare_fact", "prepare_prompts", "require_draws"]


@dataclass(frozen=True, eq=False)
class Setup:
    """Two sides of equal width and the questions that are asked of runs of them.

    The value of a run is the sum of ``weight * score`` over the questions, each with a run of its own.

    Attributes:
        encoded: the clean prompt with its (wanted) answer.
        questions: one, or the two of a Contrast whose continuations do not share a run.
        first: the first position at which the sides differ; what comes before is equal in both.
        record: settings for provenance, in JSON form.
        prompts: the corrupted side's tokens of the prompt, one row a sample; the clean ones where a
            corruption acts on embeddings.
        corrupted_subject: what is done to the embeddings of the corrupted side; None for a pair of prompts.
    """

    encoded: EncodedPrompt
    questions: tuple[Asked, ...]
    first: int
    record: dict[str, Any]
    prompts: Int[Tensor, "sample prompt_token"]
    corrupted_subject: Corrupted | None = None

    @property
    def samples(self) -> int:
        """Rows of the corrupted side."""
        return len(self.prompts)

    @property
    def units(self) -> str:
        """Units of the value of a run."""
        return self.questions[0].question.units

    def clean(self, question: Question) -> Side:
        """The clean side of a question, of one row."""
        return Side(question.ids)

    def corrupted(self, question: Question, rows: slice = slice(None)) -> Side:
        """The corrupted side of a question; every question sees the same draws.

        Args:
            rows: some of the samples.
        """
        prompts = self.prompts[rows]
        answer = question.ids[:, prompts.shape[1] :].expand(len(prompts), -1)
        hooks = () if self.corrupted_subject is None else (self.corrupted_subject.hook(rows),)
        return Side(torch.cat([prompts, answer], 1), hooks)


def prepare_fact(
    model: HookedModel,
    fact: Fact,
    *,
    corruption: Corruption | None = None,
    metric: Metric = "prob",
    answer: Answer = None,
    samples: int = 10,
    seed: int = 0,
    prepend_bos: bool | None = None,
    answer_tokens: int | None = None,
) -> Setup:
    """A fact's prompt against itself with a corrupted subject (Meng et al. 2022, section 2).

    Args:
        corruption: None is `GaussianNoise()`.
        answer: None is the fact's target; "predicted" is the model's own top token; else the exact
            continuation, or a `Contrast` of two.
        samples: corrupted subjects; a corruption that says their number itself is asked for none.
        answer_tokens: score at most so many tokens of the answer; 1 is what ROME's public code does.

    Raises:
        TextError: the prompt, its subject or the answer cannot be tokenised as asked.
        RangeError: `samples`, `answer_tokens` or the noise is out of range.
        InputError: no Fact, an unknown metric or corruption, or ones that do not fit together.

    Example:
        >>> setup = prepare_fact(model, fact, samples=10, seed=0)  # doctest: +SKIP
        >>> setup.corrupted(setup.questions[0].question).n_rows  # doctest: +SKIP
        10
    """
    require_hooked(model)
    if not isinstance(fact, Fact):
        raise InputError(f"fact: expected a Fact, got {type(fact).__name__}.")
    chosen = GaussianNoise() if corruption is None else corruption
    if not isinstance(chosen, Corruption) or isinstance(chosen, type):
        raise InputError(
            "corruption: expected a corruption such as GaussianNoise(), TokenReplacement() or "
            f"MeanAblation(), got {corruption!r}."
        )
    require_draws(samples, seed)
    target = Target.checked(answer, own=fact.target, metric=metric, answer_tokens=answer_tokens)
    encoded = target.encoded(lambda text: encode_fact(model, fact, target=text, prepend_bos=prepend_bos))
    subject = chosen.embeddings(model, fact, encoded[0], samples=samples, seed=seed)
    asked = target.asked(model, encoded)
    prompt = encoded[0].ids[: encoded[0].n_prompt]
    record = {
        "fact": fact.to_dict(),
        **target.record(asked),
        "noise": subject.record,
        "samples": subject.samples,
        "seed": seed,
        "prepend_bos": encoded[0].prepend_bos,
        **_state(model),
    }
    return Setup(
        asked[0].question.encoded,
        asked,
        subject.tokens.start,
        record,
        prompt.expand(subject.samples, -1),
        subject,
    )


def prepare_prompts(
    model: HookedModel,
    clean: Fact | str,
    corrupted: Fact | str,
    *,
    answer: Answer = None,
    metric: Metric = "logprob",
    prepend_bos: bool | None = None,
    answer_tokens: int | None = None,
) -> Setup:
    """A prompt against another one with as many tokens.

    Args:
        clean: a Fact gives the tokens their roles, and `answer=None` its target.
        corrupted: only its prompt counts; it is scored with the same answer.
        answer: None is the clean fact's target; "predicted" is the model's own top token after the clean
            prompt; else the exact continuation, or a `Contrast` of two.
        answer_tokens: score at most so many tokens of the answer.

    Raises:
        TextError: a prompt or the answer cannot be tokenised as asked, the prompts differ in their number of
            tokens or in nothing, or no answer is known.
        InputError: no prompts, an unknown metric, or an answer that it does not use.
        RangeError: `answer_tokens` is out of range.

    Example:
        >>> prepare_prompts(model, fact, "Chet Baker plays the", metric="logprob").samples  # doctest: +SKIP
        1
    """
    require_hooked(model)
    for name, given in (("clean", clean), ("corrupted", corrupted)):
        if not isinstance(given, (Fact, str)):
            raise InputError(f"{name}: expected a prompt or a Fact, got {type(given).__name__}.")
    own = clean.target if isinstance(clean, Fact) else None
    target = Target.checked(answer, own=own, metric=metric, answer_tokens=answer_tokens)
    encoded = target.encoded(lambda text: _encoded(model, clean, text, prepend_bos))
    others = target.encoded(lambda text: _encoded(model, corrupted, text, prepend_bos))
    for one, other in zip(encoded, others, strict=True):
        _require_twin(one, other)
    n_prompt = encoded[0].n_prompt
    prompt, swapped = encoded[0].ids[:n_prompt], others[0].ids[:n_prompt]
    differs = torch.nonzero(prompt != swapped)
    if not len(differs):
        raise TextError(
            f"corrupted: expected another prompt than the clean one, but both have the tokens "
            f"{_listed(encoded[0])}. Change at least one token."
        )
    asked = target.asked(model, encoded)
    record = {
        "fact": clean.to_dict() if isinstance(clean, Fact) else None,
        "prompts": {"clean": _text(clean), "corrupted": _text(corrupted)},
        **target.record(asked),
        "samples": 1,
        "prepend_bos": encoded[0].prepend_bos,
        **_state(model),
    }
    return Setup(asked[0].question.encoded, asked, int(differs[0]), record, swapped[None])


def require_draws(samples: object, seed: object) -> None:
    """Make sure that a number of samples and a seed are ones.

    Raises:
        RangeError: `samples` is no whole number of at least 1.
        InputError: `seed` is no whole number.

    Example:
        >>> require_draws(samples=10, seed=0)
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise RangeError(f"samples: expected a whole number of at least 1, got {samples!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed: expected a whole number, got {seed!r}.")


def _state(model: HookedModel) -> dict[str, Any]:
    """What is done to the model at present: its fingerprint is that of the model without it."""
    edited = edited_weights(model)
    return {"active_edits": list(edited), "edited_weights": edited, "hooks": list(hooks_by_place(model))}


def _text(prompt: Fact | str) -> str:
    return prompt.prompt if isinstance(prompt, Fact) else prompt


def _encoded(model: HookedModel, prompt: Fact | str, text: str, prepend_bos: bool | None) -> EncodedPrompt:
    if isinstance(prompt, Fact):
        return encode_fact(model, prompt, target=text, prepend_bos=prepend_bos)
    return encode(model, prompt, target=text, prepend_bos=prepend_bos)


def _require_twin(clean: EncodedPrompt, corrupted: EncodedPrompt) -> None:
    """Equal width, and the same answer tokens."""
    if clean.n_prompt != corrupted.n_prompt:
        raise TextError(
            f"corrupted: expected {clean.n_prompt} tokens, as many as the clean prompt has, so that each "
            f"token has its counterpart, got {corrupted.n_prompt}:\n  clean:     {_listed(clean)}\n"
            f"  corrupted: {_listed(corrupted)}\nChoose words of as many tokens."
        )
    if not torch.equal(clean.target_ids, corrupted.target_ids):
        raise TextError(
            "answer: its tokens differ after the two prompts, "
            f"{list(clean.strings[clean.n_prompt :])} and {list(corrupted.strings[corrupted.n_prompt :])}. "
            "Begin it with a space, and end neither prompt with one."
        )


def _listed(encoded: EncodedPrompt) -> str:
    return " ".join(repr(text) for text in encoded.strings[: encoded.n_prompt])
