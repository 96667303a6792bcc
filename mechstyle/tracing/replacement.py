"""Corruptions without noise: another subject in place of the subject, or the mean of many."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle import organisms
from mechstyle.errors import InputError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.organisms.relations import read_relations
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing.corrupted import Corrupted, subject_of
from mechstyle.tracing.reference import EMBEDDING, ORGANISM, Reference, checked_subjects
from mechstyle.weights import parameter_value

__all__ = ["MeanAblation", "TokenReplacement"]


@dataclass(frozen=True)
class TokenReplacement:
    """Another subject with as many tokens in the subject's place (Zhang and Nanda 2023).

    What reaches the model is a prompt of natural text. The paper finds weaker peaks of MLPs than under noise.

    Attributes:
        subject: the counterpart, or several, each a sample; None searches real subjects, those of the fact's
            relation first (by its label, or by a relation that has the fact's target), in an order that the
            seed decides, and takes as many as samples are asked for. Subjects with this target are no choice,
            as far as the packaged facts tell.
        reference: names to search in place of the packaged ones.

    Raises:
        InputError: neither a name nor names, or `subject` and `reference` came together.

    Example:
        >>> causal_trace(model, fact, corruption=TokenReplacement("Jimi Hendrix"))
    """

    subject: str | Sequence[str] | None = None
    reference: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.subject is not None and self.reference is not None:
            raise InputError("reference: it is searched for a subject, but a subject came as well. Give one.")
        if self.subject is not None:
            given = (self.subject,) if isinstance(self.subject, str) else self.subject
            object.__setattr__(self, "subject", checked_subjects(given, name="subject"))
        if self.reference is not None:
            object.__setattr__(self, "reference", checked_subjects(self.reference))

    def embeddings(
        self, model: HookedModel, fact: Fact, encoded: EncodedPrompt, *, samples: int, seed: int
    ) -> Corrupted:
        """The embeddings of the counterparts' tokens, as they are in the same prompt.

        Raises:
            TextError: a given counterpart has another number of tokens or is the subject itself, or none was
                found.
        """
        tokens = subject_of(encoded)
        if self.subject is not None:
            found = {name: _require_twin(model, fact, encoded, name) for name in self.subject}
        else:
            names = _candidates(fact, self.reference, seed)
            twins = ((name, _twin(model, fact, encoded, name)) for name in names)
            found = dict(islice(((name, ids) for name, ids in twins if ids is not None), samples))
            if not found:
                raise TextError(
                    f"corruption: none of {len(names)} reference subjects has {len(tokens)} tokens in the "
                    f"prompt {fact.prompt!r}, as the subject has: {_spelled(encoded)}. Those that are known "
                    "to have its target are no choice. Give one: TokenReplacement('...')."
                )
        ids = torch.stack(list(found.values()))
        record = {
            "rule": "token replacement",
            "subjects": list(found),
            "tokens": ids.tolist(),
            "chosen": "given" if self.subject is not None else "by seed",
        }
        return Corrupted(_embedded(model, ids), False, tokens, record)


@dataclass(frozen=True)
class MeanAblation:
    """The mean token embedding over reference subjects in place of every embedding of the subject's tokens.

    It has one sample: nothing in it is random.

    Attributes:
        reference: the subjects; None is the packaged list, the same for every model.

    Raises:
        InputError: `reference` is empty.

    Example:
        >>> causal_trace(model, fact, corruption=MeanAblation())
    """

    reference: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.reference is not None:
            object.__setattr__(self, "reference", checked_subjects(self.reference))

    def embeddings(
        self, model: HookedModel, fact: Fact, encoded: EncodedPrompt, *, samples: int, seed: int
    ) -> Corrupted:
        """The mean embedding, once for each of the subject's tokens, as one sample."""
        tokens = subject_of(encoded)
        reference = Reference.of(model, self.reference)
        values = _embedded(model, reference.ids)
        mean = values.double().mean(0).to(values.dtype)
        record = {"rule": "mean ablation", "reference": reference.record}
        return Corrupted(mean.expand(1, len(tokens), -1), False, tokens, record)


def _embedded(model: HookedModel, ids: Int[Tensor, "..."]) -> Tensor:
    embedding = parameter_value(model, EMBEDDING).detach()
    return embedding[ids.to(embedding.device)].cpu()


def _in_place(model: HookedModel, fact: Fact, encoded: EncodedPrompt, name: str) -> EncodedPrompt:
    """The prompt with another subject, and with the continuation that the clean one has."""
    rest = encoded.text[len(fact.prompt) :]
    other = replace(fact, subject=name)
    return encode_fact(model, other, target=rest, prepend_bos=encoded.prepend_bos)


def _twin(
    model: HookedModel, fact: Fact, encoded: EncodedPrompt, name: str
) -> Int[Tensor, " subject_token"] | None:
    """The tokens of a counterpart, or None where it is none."""
    try:
        other = _in_place(model, fact, encoded, name)
    except TextError:
        return None
    return _fitting(encoded, other)


def _require_twin(
    model: HookedModel, fact: Fact, encoded: EncodedPrompt, name: str
) -> Int[Tensor, " subject_token"]:
    other = _in_place(model, fact, encoded, name)
    found = _fitting(encoded, other)
    if found is None:
        same = torch.equal(other.ids, encoded.ids)
        raise TextError(
            f"corruption: expected another subject than {fact.subject!r}, but the tokens are the same."
            if same
            else f"corruption: expected a subject with {len(subject_of(encoded))} tokens and all else as it "
            f"is, got {name!r} with {len(subject_of(other))}:\n  subject:     {_spelled(encoded)}\n"
            f"  replacement: {_spelled(other)}\nGive another one, or let TokenReplacement() find one."
        )
    return found


def _fitting(encoded: EncodedPrompt, other: EncodedPrompt) -> Int[Tensor, " subject_token"] | None:
    """The other subject's tokens when it stands where the subject does and changes nothing else."""
    subject = subject_of(encoded)
    if other.subject != subject or other.n_prompt != encoded.n_prompt:
        return None
    differs = torch.nonzero(other.ids[: other.n_prompt] != encoded.ids[: encoded.n_prompt])[:, 0].tolist()
    inside = differs and all(position in subject for position in differs)
    return other.ids[subject.start : subject.stop] if inside else None


def _spelled(encoded: EncodedPrompt) -> str:
    return " ".join(repr(encoded.strings[position]) for position in subject_of(encoded))


def _candidates(fact: Fact, reference: Sequence[str] | None, seed: int) -> list[str]:
    """Names to try, in the order to try them; none that is known to have the fact's target.

    An invented subject's are invented ones, any other's are real: those are names to every model.
    """
    target, order = fact.target.strip(), random.Random(seed)
    known = organisms.facts(ORGANISM)
    made = {one.subject for one in known if one.invented}
    taught = [one for one in known if (one.subject in made) == (fact.subject in made)]
    barred = {one.subject for one in taught if one.object == target}
    if reference is None:
        relations = {
            name for name, relation in read_relations().items() if fact.relation in (name, *relation.sources)
        } or {one.relation for one in taught if one.object == target}
        alike = dict.fromkeys(one.subject for one in taught if one.relation in relations)
        groups = [
            list(alike),
            [name for name in dict.fromkeys(one.subject for one in taught) if name not in alike],
        ]
    else:
        groups = [list(dict.fromkeys(reference))]
    return [name for group in groups for name in order.sample(group, len(group)) if name not in barred]
