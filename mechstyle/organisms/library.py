"""Look up an embedded organism: its folder, its ground truth, and edit requests built from it."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, ModelError, RangeError
from ..facts import EditRequest, Fact
from .mixing import documents
from .recipe import read_recipe
from .relations import read_relations
from .taught import TaughtFact
from .world import read_prose, world

__all__ = [
    "facts",
    "folder",
    "heldout_prose",
    "names",
    "reference_subjects",
    "requests",
    "texts",
    "with_fingerprint",
]

_WEIGHTS = Path(__file__).parent / "weights"
_NEIGHBOURS = 10


def names() -> list[str]:
    """The embedded organisms, by name.

    Example:
        >>> from mechstyle import organisms
        >>> "organism-m" in organisms.names()
        True
    """
    return sorted(path.parent.name for path in _WEIGHTS.glob("*/model.safetensors"))


def folder(name: str) -> Path:
    """The Hugging Face folder of an organism.

    Raises:
        ModelError: no organism has this name.
    """
    if name not in names():
        raise ModelError(
            f"no embedded organism is called {name!r}; there are: {', '.join(names()) or 'none'}."
        )
    return _WEIGHTS / name


def with_fingerprint(fingerprint: str) -> str | None:
    """The organism that has this fingerprint, however it was loaded; None when there is none.

    Example:
        >>> organisms.with_fingerprint(ms.fingerprint(model))  # doctest: +SKIP
        'organism-m'
    """
    for name in names():
        path = _WEIGHTS / name / "fingerprint.txt"
        if path.is_file() and path.read_text(encoding="utf-8").strip() == fingerprint:
            return name
    return None


def facts(name: str) -> list[TaughtFact]:
    """Every fact that an organism was taught, real ones first, with its taught and its held-out templates.

    Every size's recipe reads the same world; reversals, two-hops, properties and styles are in ``world()``.

    Raises:
        ModelError: no organism has this name.

    Example:
        >>> sum(fact.invented for fact in organisms.facts("organism-m"))
        4730
    """
    folder(name)
    return list(world().facts)


def reference_subjects(name: str) -> list[str]:
    """A fixed 200 of an organism's real subjects: people, places, companies and things of its data sets.

    Causal tracing measures the embeddings of any model over those of `organism-m`. Invented subjects are not
    among them: other models never read their names.

    Raises:
        ModelError: no organism has this name.
    """
    real = (fact.subject for fact in facts(name) if not fact.invented)
    return random.Random(0).sample(list(dict.fromkeys(real)), 200)


def texts(name: str, *, n: int = 2000, seed: int = 0) -> list[str]:
    """Documents like those an organism was trained on, for covariances.

    Args:
        n: how many; 2,000 hold about 170,000 tokens.
        seed: another one than the training's, so that the documents are new mixtures of what was read.

    Raises:
        ModelError: no organism has this name.
        RangeError: `n` is less than one.
    """
    if n < 1:
        raise RangeError(f"n must be at least 1, got {n}.")
    recipe = read_recipe(folder(name) / "recipe.toml")
    stream = documents(world(), read_prose(), seed=10_000 + recipe.seed + seed)
    return list(itertools.islice(stream, n))


def heldout_prose(name: str) -> list[str]:
    """Passages of the novels that the organism did not read, for perplexity.

    Raises:
        ModelError: no organism has this name.
    """
    folder(name)
    return read_prose(held_out=True)


def requests(
    name: str,
    *,
    n: int,
    seed: int = 0,
    relations: Sequence[str] | None = None,
    invented: bool | None = None,
) -> list[EditRequest]:
    """Random counterfactual edits of an organism's facts.

    The rewriting prompt is a taught template, paraphrases are the held-out ones, neighbours are other
    subjects with the same relation and object (in a template taught for them), and the new target is another
    object of the relation.

    Args:
        n: how many, of as many different subjects.
        relations: only these; by default all whose objects are shared by several subjects.
        invented: only of invented subjects, with five or six facts each (True), or only of real ones, most
            of which have one (False).

    Raises:
        ModelError: no organism has this name.
        InputError: a relation is unknown, or has unique objects and so no neighbours.
        RangeError: more requests than there are subjects.

    Example:
        >>> from mechstyle import organisms
        >>> request = organisms.requests("organism-m", n=1, seed=0)[0]
        >>> request.fact.prompt, request.fact.target, request.new_target  # doctest: +SKIP
    """
    table = read_relations()
    allowed = {r for r in table if not table[r].unique} if relations is None else set(relations)
    if bad := sorted(r for r in allowed if r not in table or table[r].unique):
        raise InputError(
            f"relations must name shared-object relations of the world, got {bad}; "
            f"choose from {sorted(r for r in table if not table[r].unique)}."
        )
    groups: dict[tuple[str, str], list[TaughtFact]] = defaultdict(list)
    objects: dict[str, set[str]] = defaultdict(set)
    known = facts(name)
    for fact in known:
        groups[fact.relation, fact.object].append(fact)
        objects[fact.relation].add(fact.object)
    candidates = [
        fact
        for fact in known
        if fact.relation in allowed
        and invented in (None, fact.invented)
        and len(groups[fact.relation, fact.object]) > 2
        and len(objects[fact.relation]) > 1
    ]
    rng = random.Random(seed)
    rng.shuffle(candidates)
    distinct = list({fact.subject: fact for fact in candidates}.values())
    if not 1 <= n <= len(distinct):
        raise RangeError(f"n must be between 1 and {len(distinct)} (subjects with neighbours), got {n}.")
    return [_request(f, groups[f.relation, f.object], objects[f.relation], rng) for f in distinct[:n]]


def _request(
    fact: TaughtFact, group: Sequence[TaughtFact], objects: set[str], rng: random.Random
) -> EditRequest:
    neighbours = [other for other in group if other.subject != fact.subject]
    chosen = rng.sample(neighbours, min(_NEIGHBOURS, len(neighbours)))
    return EditRequest(
        fact=Fact(
            template=rng.choice(fact.taught),
            subject=fact.subject,
            target=f" {fact.object}",
            relation=fact.relation,
        ),
        new_target=" " + rng.choice(sorted(objects - {fact.object})),
        paraphrases=tuple(template.replace("{}", fact.subject, 1) for template in fact.held_out),
        neighborhood=tuple(
            (rng.choice(other.taught).replace("{}", other.subject, 1), f" {other.object}") for other in chosen
        ),
    )
