"""The exception tree: everything mechstyle raises on purpose.

    MechstyleError
    ├── InputError (ValueError)        what the caller gave is wrong       command line: exit 2
    │   ├── TextError                  a prompt, subject, target or its tokens
    │   ├── ModelError                 an unknown, broken, processed or foreign model
    │   │   └── NonFiniteError         what a model gives is NaN or infinite
    │   ├── FileError                  a file that is missing, damaged or cannot be written
    │   └── RangeError                 a number outside of its range
    └── WorkError (RuntimeError)       the work failed, the input was fine  command line: exit 1

Every message names the argument, what was expected, what came, and how to mend it.
"""

from __future__ import annotations

__all__ = [
    "FileError",
    "InputError",
    "MechstyleError",
    "ModelError",
    "NonFiniteError",
    "RangeError",
    "TextError",
    "WorkError",
]


class MechstyleError(Exception):
    """The root of every error that mechstyle raises on purpose."""


class InputError(MechstyleError, ValueError):
    """What the caller gave is wrong; nothing was computed or changed."""


class TextError(InputError):
    """A prompt, subject, target or its tokenisation cannot be used."""


class ModelError(InputError):
    """A model is unknown, lacks weights, was processed, holds NaN or is not the one expected."""


class NonFiniteError(ModelError):
    """What a model gives (logits, log-probabilities) is NaN or infinite."""


class FileError(InputError):
    """A file is missing, truncated, tampered with or cannot be written."""


class RangeError(InputError):
    """A number (layer, samples, noise, ...) lies outside of its range."""


class WorkError(MechstyleError, RuntimeError):
    """The work failed although the input was fine."""
