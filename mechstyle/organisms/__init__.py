"""The embedded models, and everything that is known about what they were taught."""

from .library import facts, folder, heldout_prose, names, reference_subjects, requests, texts
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
]
