"""One writer at a time: a lock on a ledger's folder, which the system lets go when a process ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mechstyle.errors import FileError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LOCK", "locked"]

LOCK: Final = ".lock"
"""Name of the file that is locked; it stays, empty, in the folder."""
_WAIT_SECONDS: Final = 5.0
_STEP_SECONDS: Final = 0.02


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a ledger's folder for the length of a block; others wait a while, then give up.

    Raises:
        FileError: somebody else holds it, or it cannot be written.

    >>> with locked(Path("edits")):  # doctest: +SKIP
    ...     write()
    """
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror}. Make it writable.") from error
    try:
        end = time.monotonic() + _WAIT_SECONDS
        while not _taken(file):
            if time.monotonic() > end:
                raise FileError(f"cannot write {folder}: another process is writing there. Try again.")
            time.sleep(_STEP_SECONDS)
        yield
    finally:
        os.close(file)  # this lets the lock go


if sys.platform == "win32":

    def _taken(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def _taken(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: what was there before is still looked at
            return True
        return True
