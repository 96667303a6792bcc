"""The embedded models, and everything that is known about what they were taught."""

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
from .world import TaughtFact

__all__ = [
    "TaughtFact",
    "facts",
    "folder",
    "heldout_prose",
    "names",
    "reference_subjects",
    "requests",
    "texts",
    "with_fingerprint",
]
