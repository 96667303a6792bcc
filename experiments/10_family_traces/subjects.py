"""Which facts are traced: known ones of several kinds of subjects, and what takes each subject's place."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import mechstyle as ms
from mechstyle.answers import score_answers
from mechstyle.errors import TextError
from mechstyle.models import HookedModel
from mechstyle.organisms.taught import TaughtFact
from mechstyle.organisms.world import world
from mechstyle.tokens import EncodedPrompt, encode_fact

GROUPS = ("real, one fact", "real, two facts", "invented, 5-6 facts")
MAIN = (GROUPS[0], GROUPS[2])
"""The two kinds of subjects whose tokens are also put back one by one."""
ALL, LAST, REST, END = "all subject tokens", "last subject token", "all but the last", "last prompt token"
LENGTHS, LOOKED_AT = 3, 40
"""Cells of each kind of name, and prompts that are looked at for each fact that is wanted."""
FEW = 2
"""A group needs so many known facts."""


@dataclass(frozen=True)
class Chosen:
    """One fact to trace.

    Args:
        name: how the subject is named: "real", or the kind of an invented name.
        after: tokens of the prompt after the subject.
        tokens: of the subject.
        first_shared: invented subjects whose first word is this one's.
        last_shared: invented subjects whose last token, in the same prompt, is this one's.
    """

    fact: ms.Fact
    group: str
    name: str
    after: int
    tokens: int
    first_shared: int
    last_shared: int

    @property
    def length(self) -> str:
        """The split by tokens after the subject."""
        return "0-2 tokens after" if self.after < 3 else "3-5 tokens after" if self.after < 6 else "6+ after"


@cache
def by_relation() -> dict[str, dict[str, set[str]]]:
    """Objects of each subject of each relation."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in world().facts:
        found[one.relation][one.subject].add(one.object)
    return found


def group_of(facts: Sequence[TaughtFact]) -> str | None:
    """The group of a subject with these facts."""
    if facts[0].invented:
        return GROUPS[2]
    return dict(enumerate(GROUPS[:2], start=1)).get(len(facts))


def naming(one: TaughtFact) -> str:
    """How the subject is named."""
    if not one.invented:
        return "real"
    kind = one.relation.split("_")[0]
    return kind if kind != "place" else "place, two words" if " " in one.subject else "place, one word"


def counterparts(model: HookedModel, fact: ms.Fact, *, n: int, seed: int, same_end: bool) -> list[str]:
    """Names that fit in the subject's place: as many tokens, the same relation, another object.

    Args:
        same_end: only names whose last token is the subject's; False takes them as they come.
    """
    objects, order = by_relation()[str(fact.relation)], random.Random(f"{seed} {fact.prompt}")
    own, place = encode_fact(model, fact), in_place(fact.template)
    tokens = name_ids(model, fact.subject, place)
    names = [
        name
        for name, said in objects.items()
        if fact.target.strip() not in said and fits(name_ids(model, name, place), tokens, same_end)
    ]
    return list(islice(_verified(model, fact, own, order.sample(names, len(names))), n))


def fits(other: tuple[int, ...], own: tuple[int, ...], same_end: bool) -> bool:
    """Whether a name has as many tokens, and, if asked for, the same last one."""
    return other != own and len(other) == len(own) and (not same_end or other[-1:] == own[-1:])


def in_place(template: str) -> str:
    """A short sentence with the subject in a like place: at the start or not."""
    return "{} is" if template.startswith("{}") else "The {} is"


@cache
def name_ids(model: HookedModel, name: str, place: str) -> tuple[int, ...]:
    """The tokens of a name; none where they cannot be told."""
    try:
        encoded = encode_fact(model, ms.Fact(place, name, " it"))
    except TextError:
        return ()
    return tuple(encoded.ids[list(encoded.subject or ())].tolist())


def _verified(model: HookedModel, fact: ms.Fact, own: EncodedPrompt, names: Sequence[str]) -> Iterator[str]:
    """Names that change the subject's tokens of the prompt and no other."""
    outside = [i for i in range(len(own)) if i not in (own.subject or ())]
    for name in names:
        try:
            other = encode_fact(model, ms.Fact(fact.template, name, fact.target))
        except TextError:
            continue
        alike = other.subject == own.subject and len(other) == len(own)
        if alike and (other.ids[outside] == own.ids[outside]).all():
            yield name


def replaced(
    model: HookedModel,
    fact: ms.Fact,
    *,
    sets: bool,
    same_end: bool,
    kinds: tuple[str, ...],
    samples: int,
    seed: int = 0,
) -> ms.Trace:
    """A trace with replaced subjects; with `sets`, of tokens that are put back together."""
    names = counterparts(model, fact, n=samples, seed=seed, same_end=same_end)
    where = token_sets(model, fact) if sets else None
    return ms.causal_trace(model, fact, kinds=kinds, corruption=ms.TokenReplacement(names), tokens=where)


def noised(
    model: HookedModel, fact: ms.Fact, *, sets: bool, kinds: tuple[str, ...], samples: int, seed: int = 0
) -> ms.Trace:
    """The same with Gaussian noise of 3 sigma."""
    where = token_sets(model, fact) if sets else None
    return ms.causal_trace(model, fact, kinds=kinds, samples=samples, seed=seed, tokens=where)


def token_sets(model: HookedModel, fact: ms.Fact) -> dict[str, Sequence[int]]:
    """Sets of tokens that are put back together, by name."""
    encoded = encode_fact(model, fact)
    subject = list(encoded.subject or ())
    return {ALL: subject, REST: subject[:-1], LAST: subject[-1:], END: [encoded.n_prompt - 1]}


def choose(
    model: HookedModel, group: str, *, per_cell: int, least: int, seed: int, same_end: bool
) -> list[Chosen]:
    """Known facts of a group, one a subject, as many of each kind of name and length of what follows.

    Subjects of one token are left out: their last token is all that they have.

    Args:
        least: counterparts that a fact must have.
    """
    candidates: dict[tuple[str, str], list[tuple[Chosen, EncodedPrompt]]] = defaultdict(list)
    prompts = _prompts(group, seed)
    cells = len({naming(one) for one, _ in prompts}) * LENGTHS
    used: set[str] = set()
    for one, template in prompts[: LOOKED_AT * per_cell * cells]:
        fact = ms.Fact(template, one.subject, f" {one.object}", one.relation)
        if one.subject in used:
            continue
        try:
            encoded = encode_fact(model, fact)
        except TextError:
            continue
        chosen = _described(model, fact, group, naming(one), encoded)
        cell = candidates[chosen.name, chosen.length]
        if len(cell) >= 2 * per_cell or chosen.tokens < 2:
            continue
        if len(counterparts(model, fact, n=least, seed=seed, same_end=same_end)) == least:
            cell.append((chosen, encoded))
            used.add(one.subject)
        if sum(len(cell) for cell in candidates.values()) == 2 * per_cell * cells:
            break
    listed = [pair for cell in candidates.values() for pair in cell]
    scores = score_answers(model, [encoded for _, encoded in listed], batch_size=64) if listed else []
    known = [chosen for (chosen, _), score in zip(listed, scores, strict=True) if score.exact]
    kept: Counter[tuple[str, str]] = Counter()
    found = []
    for chosen in known:
        kept[chosen.name, chosen.length] += 1
        if kept[chosen.name, chosen.length] <= per_cell:
            found.append(chosen)
    return found if len(found) >= FEW else []


def _prompts(group: str, seed: int) -> list[tuple[TaughtFact, str]]:
    """Facts of a group with one of their templates each, in an order that the seed decides."""
    pairs = [
        (one, template)
        for facts in world().by_subject().values()
        if group_of(facts) == group
        for one in facts
        for template in (*one.taught, *one.held_out)
    ]
    return random.Random(seed).sample(pairs, len(pairs))


def _described(model: HookedModel, fact: ms.Fact, group: str, name: str, encoded: EncodedPrompt) -> Chosen:
    subject = encoded.subject or range(1)
    firsts, lasts = _shared(model, in_place(fact.template))
    return Chosen(
        fact,
        group,
        name,
        after=encoded.n_prompt - subject[-1] - 1,
        tokens=len(subject),
        first_shared=firsts[fact.subject.split(" ")[0]],
        last_shared=lasts[int(encoded.ids[subject[-1]])],
    )


@cache
def _shared(model: HookedModel, place: str) -> tuple[Counter[str], Counter[int]]:
    """How many invented subjects begin with each word, and end with each token in this place."""
    names = [name for name, facts in world().by_subject().items() if facts[0].invented]
    ends = [name_ids(model, name, place)[-1] for name in names if name_ids(model, name, place)]
    return Counter(name.split(" ")[0] for name in names), Counter(ends)
