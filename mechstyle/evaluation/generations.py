"""What a model writes about the subjects of edits: how fluent it is, and whether it fits the new facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mechstyle.cases import Case
from mechstyle.editing.memory import MemoryEdit, Recall
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.fluency import fluency
from mechstyle.evaluation.generation import new_text
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.evaluation.sampling import check_sampling, sample_encoded, uniforms
from mechstyle.evaluation.similarity import TfidfSpace, consistency
from mechstyle.models import HookedModel
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["Generations"]

METRICS: Final = (
    Metric("fluency", "fluency", "entropy in bits of sampled text", "generation", better="same"),
    Metric("consistency", "consistency", "tf-idf cosine of sampled text", "case", better="higher"),
)


@dataclass(frozen=True)
class Generations:
    """Texts sampled after each case's prompts: fluency (GE) and consistency (RS) of Meng et al. (2022).

    Each prompt is continued once. Its random numbers follow from the seed and from its place among the cases
    and prompts, so they are the same before and under every edit. A row of kind "generation" is a prompt,
    with the ``text`` behind it, its ``n_tokens``, and the ``fluency`` of both together. A row of kind "case"
    has the ``consistency`` of all of a case's texts, prompts included, with its references; cases without
    references have none.

    Under an edit in context, prompts stand behind the context, which is no part of the text. Where an edit
    cache has an answer, the text begins with it (always: ``epsilon`` is not drawn) and the model goes on.

    Args:
        max_length: tokens of a prompt and its text together, BOS and an edit's context not counted; less if
            the model's context is shorter.
        top_k: see ``sample``.
        temperature: see ``sample``.
        past_end: write behind end-of-text tokens too, as the published code does: all texts are of one length
            then, without which fluency says little. False ends a text before one. The token itself becomes
            a blank line here, and the rest of a text stays as it is written; the published code deletes the
            token, makes a space of each blank line, and brings letters into the form NFKD.
        space: for consistency; None is fitted on the references of all cases, each different one a document.
            Cosines of two spaces cannot be compared: fix one where the cases differ.

    Raises:
        RangeError: a number is out of range.

    Example:
        >>> [metric.name for metric in Generations().metrics]
        ['fluency', 'consistency']
    """

    name: ClassVar[str] = "generations"
    about: ClassVar[About] = "requests"
    max_length: int = 100
    top_k: int | None = 5
    temperature: float = 1.0
    past_end: bool = True
    space: TfidfSpace | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.max_length, int) and not isinstance(self.max_length, bool)
        if not whole or self.max_length < 2:
            raise RangeError(
                f"max_length: expected a whole number of 2 or more, a prompt and a token behind it, "
                f"got {self.max_length!r}."
            )
        check_sampling(self.top_k, self.temperature)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Fluency, best left as it was, and consistency with the new facts."""
        return METRICS

    def settings(self) -> dict[str, Any]:
        """How texts are drawn, and what the words' weights were fitted on."""
        space = self.space
        fitted = None if space is None else {"n_documents": space.n_documents, "sha256": space.sha256}
        return {
            "max_length": self.max_length,
            "top_k": self.top_k,
            "temperature": self.temperature,
            "past_end": self.past_end,
            "tfidf": fitted or "fitted on the references of all cases",
        }

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise every prompt, and fit the space of words if none was given.

        Raises:
            TextError: a prompt cannot be tokenised or leaves no room for a token, or the references hold no
                word; case and prompt are named.
        """
        length = min(self.max_length, int(model.cfg.n_ctx) - int(conditions.prepend_bos))
        asked = _Asked(model, tuple(cases), conditions, length, self, self.space or _fitted(cases))
        for index, case in enumerate(cases):
            for place in range(len(case.prompts)):
                asked.room(index, place)
        return asked.read


@dataclass(frozen=True, eq=False)
class _Asked:
    """All cases with what is needed to write and to judge."""

    model: HookedModel
    cases: tuple[Case, ...]
    conditions: Conditions
    length: int
    options: Generations
    space: TfidfSpace | None

    def read(self, edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
        """The rows of these cases, as the model now writes."""
        memory = edit if isinstance(edit, MemoryEdit) else None
        places = [(index, place) for index in indices for place in range(len(self.cases[index].prompts))]
        written = dict(zip(places, self._write(memory, places), strict=True))
        rows: list[Row] = []
        for index in indices:
            case = self.cases[index]
            about = {
                "request": index,
                "subject": case.request.fact.subject,
                "relation": case.request.fact.relation,
            }
            texts = []
            for place, prompt in enumerate(case.prompts):
                text, n_tokens = written[index, place]
                texts.append(prompt + text)
                rows.append(
                    about
                    | {
                        "kind": "generation",
                        "item": f"{place}: {prompt}",
                        "prompt": prompt,
                        "text": text,
                        "n_tokens": n_tokens,
                        "fluency": fluency(prompt + text),
                        "consistency": None,
                    }
                )
            if self.space is not None and texts and case.references:
                score = consistency(texts, case.references, self.space)
                rows.append(
                    about
                    | {
                        "kind": "case",
                        "item": "all prompts",
                        "prompt": None,
                        "text": None,
                        "n_tokens": None,
                        "fluency": None,
                        "consistency": score,
                    }
                )
        return rows

    def room(self, index: int, place: int) -> int:
        """How many tokens are written after a prompt, the same under every edit."""
        encoded = self._encoded(index, place)
        left = self.length - (len(encoded) - int(encoded.prepend_bos))
        if left < 1:
            raise TextError(
                f"{self._where(index, place)}: its tokens leave no room for another one in max_length="
                f"{self.options.max_length} and the model's context of {self.model.cfg.n_ctx}; shorten the "
                "prompt or set max_length higher."
            )
        return left

    def _write(self, memory: MemoryEdit | None, places: Sequence[tuple[int, int]]) -> list[tuple[str, int]]:
        """What is written after each prompt, and how many tokens it has."""
        if not places:
            return []
        prompts = [self.cases[index].prompts[place] for index, place in places]
        recalled: Sequence[Recall | None] = (None,) * len(places)
        if memory is not None:
            recalled = memory.recall(self.model, prompts, prepend_bos=self.conditions.prepend_bos)
        context = "" if memory is None else memory.context
        answers = ["" if one is None else one.answer for one in recalled]
        encoded, chances = [], []
        for (index, place), answer in zip(places, answers, strict=True):
            room, one = self.room(index, place), self._encoded(index, place, context, answer)
            if one.n_prompt + room > int(self.model.cfg.n_ctx):
                raise TextError(
                    f"{self._where(index, place)}: its text of {self.length} tokens does not fit into the "
                    f"model's context of {self.model.cfg.n_ctx} behind {context!r}; set max_length to "
                    f"{self.length - (one.n_prompt + room - int(self.model.cfg.n_ctx))} or less, or take an "
                    "edit of fewer requests."
                )
            encoded.append(one)
            draws = uniforms(self.conditions.seed, (Generations.name, index, place), room)
            chances.append(draws[len(one.target_ids) :])
        new = sample_encoded(
            self.model,
            encoded,
            chances,
            top_k=self.options.top_k,
            temperature=self.options.temperature,
            batch_size=self.conditions.batch_size,
            past_end=self.options.past_end,
        )
        return [
            (answer + self._text(one, ids), len(one.target_ids) + len(ids))
            for answer, one, ids in zip(answers, encoded, new, strict=True)
        ]

    def _text(self, prompt: EncodedPrompt, ids: list[int]) -> str:
        """New text, with a blank line where a text ends and another one begins."""
        text, end = new_text(self.model, prompt, ids), self.model.tokenizer.eos_token
        return text.replace(end, "\n\n") if end else text

    def _encoded(self, index: int, place: int, context: str = "", answer: str = "") -> EncodedPrompt:
        prompt = context + self.cases[index].prompts[place]
        try:
            return encode(self.model, prompt, target=answer, prepend_bos=self.conditions.prepend_bos)
        except ModelError:
            raise
        except InputError as error:
            behind = f" behind {context!r}" if context else ""
            raise TextError(f"{self._where(index, place)}{behind}: {error}") from error

    def _where(self, index: int, place: int) -> str:
        return f"requests[{index}], prompts[{place}] {self.cases[index].prompts[place]!r}"


def _fitted(cases: Sequence[Case]) -> TfidfSpace | None:
    """Words weighed by the references of all cases; None without any."""
    references = dict.fromkeys(text for case in cases for text in case.references)
    return TfidfSpace.fit(tuple(references)) if references else None
