"""Where results are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["CACHE", "cache_folder"]

CACHE: Final = "MECHSTYLE_CACHE"
"""Environment variable that names the folder of the cache."""


def cache_folder() -> Path:
    """The cache: ``$MECHSTYLE_CACHE``, or ``mechstyle`` in the user's own cache folder.

    That is ``$XDG_CACHE_HOME``, or ``~/.cache`` where it is not set. The folder may be removed at any time.

    >>> cache_folder()  # doctest: +SKIP
    PosixPath('/home/miles/.cache/mechstyle')
    """
    own = os.environ.get(CACHE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mechstyle"
