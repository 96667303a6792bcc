"""The embedded models, and everything that is known about what they were taught."""

from .cases import cases
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
from .world import TaughtFact

__all__ = [
    "TaughtFact",
    "belief_chains",
    "cases",
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
]
