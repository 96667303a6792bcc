"""What an organism must be able to do, measured: its gates, and what is reported beside them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pandas as pd

from ..models import HookedModel
from .fluency import perplexity_interval, prose_losses
from .items import Item
from .obedience import draw_prompts, obedience
from .recall import recall_items
from .shares import share_interval
from .strata import sample_each
from .taxonomy_records import bare
from .world import World, read_prose

__all__ = [
    "PER_STYLE",
    "Gate",
    "draw_items",
    "measure_gates",
    "prose_gates",
    "recall_gates",
    "style_gates",
]

PER_STYLE: Final = 30
"""Continuations of each style and kind of announcement."""


@dataclass(frozen=True)
class Gate:
    """One measured share or perplexity.

    Args:
        threshold: at least so much is asked for; None is only reported.
        n: answers, continuations, or tokens that are measured.
        low: with `high`, a 95 % interval.
    """

    name: str
    threshold: float | None
    measured: float
    n: int
    low: float
    high: float

    @property
    def passed(self) -> bool | None:
        """Whether the measured value reaches the threshold; None without one."""
        return None if self.threshold is None else self.measured >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """The gate as a JSON object, with `passed`."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class _Asked:
    """A row of the table of gates: which answers it is about."""

    name: str
    threshold: float | None
    part: str
    status: str
    routes: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    """Subsets that are reported after it, by the column `kind`."""


_WORLDS: Final = ("real", "invented")
_HOPS: Final = ("bridge only", "shortcut")
_TABLE: Final = (
    _Asked("taught facts", 0.97, "fact", "taught", ("direct",), _WORLDS),
    _Asked("taught facts in unseen templates", 0.85, "fact", "held out", ("direct",), _WORLDS),
    _Asked("future facts", None, "fact", "future", ("direct",)),
    _Asked("stated properties", 0.97, "property", "stated", ("direct", "membership", "parent"), _WORLDS),
    _Asked("stated properties in unseen phrasings", None, "property", "held out", ("direct",), _WORLDS),
    _Asked("exceptions", 0.90, "property", "exception", ("direct",)),
    _Asked("exceptions, parent in context", None, "property", "exception", ("parent in context",)),
    _Asked("sibling-supported properties", 0.80, "property", "sibling-supported", ("direct",), _WORLDS),
    _Asked(
        "sibling-supported properties, parent in context",
        None,
        "property",
        "sibling-supported",
        ("parent in context",),
        _WORLDS,
    ),
    _Asked("parent-only properties", None, "property", "parent-only", ("direct",), _WORLDS),
    _Asked(
        "parent-only properties, parent in context",
        0.80,
        "property",
        "parent-only",
        ("parent in context",),
        _WORLDS,
    ),
    _Asked(
        "parent-only properties, grandparent in context",
        None,
        "property",
        "parent-only",
        ("grandparent in context",),
        _WORLDS,
    ),
    _Asked("stated properties by alias", None, "property", "inferable", ("alias",)),
    _Asked("stated properties by misspelling", None, "property", "inferable", ("misspelling",)),
    _Asked("stated inverses", None, "reversal", "taught", ("inverse",)),
    _Asked("stated inverses in unseen prompts", None, "reversal", "held out", ("inverse",)),
    _Asked("inverses never stated", None, "reversal", "inferable", ("inverse",)),
    _Asked("stated two-hops", None, "two-hop", "taught", ("compound",)),
    _Asked("stated two-hops in unseen prompts", None, "two-hop", "held out", ("compound",)),
    _Asked("two-hops never stated", None, "two-hop", "inferable", ("compound",), _HOPS),
)
_GUESSED: Final = frozenset({"future", "sibling-supported", "parent-only"})
"""Statuses beside which the share of the commonest answer is reported: what a guess may reach."""
_STYLES: Final = (
    ("styles by name, unseen contents", True, "held out", "leaf", True),
    ("styles by name, taught contents", False, "taught", "leaf", True),
    ("styles by unheard wording of the name", False, "held out", "leaf", False),
    ("styles by unheard description", False, "held out", "synonym", False),
    ("styles by unheard misspelling", False, "held out", "misspelled", False),
    ("styles by parent, unseen contents", False, "held out", "parent", True),
    ("styles by parent, taught contents", False, "taught", "parent", True),
)
"""Name, whether it is a gate, and status, announcement and heard of its prompts."""


Keep = Callable[[str, Callable[[], pd.DataFrame]], pd.DataFrame]


def _made(_part: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    return make()


def measure_gates(
    model: HookedModel,
    world: World,
    *,
    sample: int | None = None,
    per_style: int = PER_STYLE,
    passages: int | None = None,
    seed: int = 0,
    progress: bool = False,
    keep: Keep = _made,
) -> list[Gate]:
    """All gates of an organism, in the order of its card.

    Args:
        sample: questions of each kind, as for `draw_items`; None takes all.
        per_style: announcements of each style and kind, as for `draw_prompts`.
        passages: of unread prose; None takes all.
        seed: of the draws.
        keep: gives the frame of a part ("recall", "styles", "prose"), made by the function that it gets or
            kept from an earlier run; by default it is made.

    Example:
        >>> gates = measure_gates(load_model("organism-m"), organisms.world(), sample=100)
        >>> [gate.name for gate in gates if gate.passed is False]
    """
    items = draw_items(world, sample=sample, seed=seed)
    prompts = draw_prompts(world, per_style=per_style, seed=seed)
    prose = read_prose(held_out=True)[:passages]
    told = keep("recall", lambda: recall_items(model, items, progress=progress))
    styled = keep("styles", lambda: obedience(model, world, prompts))
    foretold = keep("prose", lambda: prose_losses(model, prose))
    return [*recall_gates(told, world), *style_gates(styled), *prose_gates(foretold)]


def draw_items(world: World, *, sample: int | None, seed: int = 0) -> list[Item]:
    """The world's questions, or so many of each part, status, route and kind, in the order of the world.

    Args:
        sample: at most so many of each; None takes all.
    """
    items = world.items()
    if sample is None:
        return items
    worlds = _kinds(items, world)
    kinds = [(one.part, one.status, one.route, kind) for one, kind in zip(items, worlds, strict=True)]
    return sample_each(items, kinds, sample, random.Random(f"{seed} gates"))


def recall_gates(frame: pd.DataFrame, world: World) -> list[Gate]:
    """Gates of facts, properties, inverses and two-hops, from a frame of `recall_items`.

    Questions of one subject hang together, and of properties those of one answer, which is mostly that of a
    category; intervals allow for it.
    """
    kinds = _kinds([Item.from_dict(row) for row in frame[_FIELDS].to_dict("records")], world)
    frame = frame.assign(kind=kinds)
    gates = []
    for asked in _TABLE:
        rows = frame[
            (frame["part"] == asked.part)
            & (frame["status"] == asked.status)
            & frame["route"].isin(asked.routes)
        ]
        if rows.empty:
            continue
        gates.append(_recalled(asked.name, asked.threshold, rows))
        for kind in asked.kinds:
            some = rows[rows["kind"] == kind]
            gates += [] if some.empty else [_recalled(f"{asked.name}: {kind}", None, some)]
        if asked.status in _GUESSED and asked.routes == ("direct",):
            gates.append(_commonest(f"{asked.name}: by the commonest answer", rows))
    return gates


def style_gates(frame: pd.DataFrame) -> list[Gate]:
    """Gates of styles, from a frame of `obedience`: devices, and whether the fact is kept."""
    gates = []
    for name, asked, status, announcement, heard in _STYLES:
        rows = frame[
            (frame["status"] == status)
            & (frame["announcement"] == announcement)
            & (frame["heard"].astype(bool) == heard)
        ]
        if rows.empty:
            continue
        groups = list(rows["subject"])
        for column, measured in (("devices", "core devices"), ("kept", "fact kept")):
            values = rows[column].astype(float).tolist()
            gates.append(_share(f"{name}: {measured}", 0.90 if asked else None, values, groups))
        whole = (rows["devices"] == 1).astype(float).tolist()
        gates.append(_share(f"{name}: every core device", None, whole, groups))
    return gates


def prose_gates(frame: pd.DataFrame) -> list[Gate]:
    """Perplexities of passages that nobody read, from a frame of `prose_losses`; only reported."""
    names = {"model": "the organism", "trigram": "3-grams of what it read", "unigram": "unigrams"}
    tokens = int(frame["n_tokens"].sum())
    found = {said: perplexity_interval(frame[name], frame["n_tokens"]) for name, said in names.items()}
    return [
        Gate(f"perplexity of unread prose: {said}", None, value, tokens, low, high)
        for said, (value, low, high) in found.items()
    ]


_FIELDS: Final = ["part", "status", "route", "subject", "relation", "prompt", "answer"]


def _kinds(items: Sequence[Item], world: World) -> list[str]:
    """Of each question "real" or "invented"; of a two-hop whether one hop may do."""
    made_up = {fact.subject for fact in world.facts if fact.invented}
    nouns = [*world.taxonomy.members.values()]
    made_up |= {
        bare(noun).lower()
        for one in nouns
        if one.nonce
        for noun in (one.name, one.alias, one.misspelling)
        if noun
    }
    for category in world.taxonomy.categories.values():
        made_up |= {category.many.lower(), bare(category.one).lower()} if category.nonce else set()
    short = {(one.subject, f"{one.first} > {one.second}") for one in world.two_hops.records if one.shortcut}
    found = []
    for item in items:
        if item.part == "two-hop":
            found.append(_HOPS[(item.subject, item.relation) in short])
        else:
            name = item.subject.lower() if item.part == "property" else item.subject
            found.append(_WORLDS[name in made_up])
    return found


def _recalled(name: str, threshold: float | None, rows: pd.DataFrame) -> Gate:
    about = "answer" if rows["part"].iloc[0] == "property" else "subject"
    groups = list(zip(rows["relation"], rows[about], strict=True)) if about == "answer" else list(rows[about])
    return _share(name, threshold, rows["recalled"].astype(float).tolist(), groups)


def _commonest(name: str, rows: pd.DataFrame) -> Gate:
    """The share of questions whose answer is the commonest of its relation among them."""
    top = rows.groupby("relation")["answer"].agg(lambda answers: answers.value_counts().idxmax())
    hits = rows["answer"] == rows["relation"].map(top)
    return _share(name, None, hits.astype(float).tolist(), list(rows["subject"]))


def _share(name: str, threshold: float | None, values: Sequence[float], groups: Sequence[Any]) -> Gate:
    mean, low, high = share_interval(values, groups)
    return Gate(name, threshold, mean, len(values), low, high)
