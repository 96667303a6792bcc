"""The embedded models, and everything that is known about what they were taught."""

from .cases import cases, cases_for
from .library import (
    facts,
    folder,
    heldout_prose,
    names,
    reference_subjects,
    requests,
    texts,
    with_fingerprint,
)
from .ripples import belief_chains, ripple_cases, ripple_questions
from .taught import TaughtFact
from .world import World, build_world, world

__all__ = [
    "TaughtFact",
    "World",
    "belief_chains",
    "build_world",
    "cases",
    "cases_for",
    "facts",
    "folder",
    "heldout_prose",
    "names",
    "reference_subjects",
    "requests",
    "ripple_cases",
    "ripple_questions",
    "texts",
    "with_fingerprint",
    "world",
]
