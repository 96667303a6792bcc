"""Reading an edit of any kind from its file."""

from __future__ import annotations

import os

from mechstyle.editing import edit
from mechstyle.editing.edit import EditSet
from mechstyle.editing.memory import FILE_KIND, EditCache, InContextEdit, load_memory_edit
from mechstyle.editing.storage import file_kind

__all__ = ["load_edit"]


def load_edit(path: str | os.PathLike[str]) -> EditSet | EditCache | InContextEdit:
    """Read an edit that its ``save`` wrote, of weights or beside them; applying it checks the model.

    Raises:
        FileError: the file is missing, cut short, changed, or not an edit.

    >>> load_edit("edit.safetensors").requests  # doctest: +SKIP
    """
    return load_memory_edit(path) if file_kind(path) == FILE_KIND else edit.load_edit(path)
