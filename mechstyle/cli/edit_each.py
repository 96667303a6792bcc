"""An edit of its own for each request, each in a file of its own: what side-by-side evaluation takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mechstyle.errors import FileError
from mechstyle.files import atomic_write

if TYPE_CHECKING:
    from mechstyle.cli.edit_order import EditOrder
    from mechstyle.cli.methods import Editor, Job
    from mechstyle.editing.edit import EditSet
    from mechstyle.editing.memory import MemoryEdit
    from mechstyle.facts import EditRequest
    from mechstyle.models import HookedModel

__all__ = ["prepare_folder", "record_of", "write_each"]

ORDER: Final = "order.json"
SUFFIX: Final = ".safetensors"


def record_of(
    order: EditOrder, job: Job, model: HookedModel, requests: Sequence[EditRequest]
) -> dict[str, Any]:
    """Everything that the edits depend on."""
    from mechstyle import __version__
    from mechstyle.models import fingerprint

    given = {name: str(getattr(order.tuning, name)) for name in sorted(order.tuning.given)}
    return {
        "mechstyle": __version__,
        "fingerprint": fingerprint(model),
        "method": str(order.method),
        "layers": list(job.layers),
        "options": given,
        "seed": order.seed,
        "prepend_bos": order.prepend_bos,
        "requests": [request.to_dict() for request in requests],
    }


def prepare_folder(folder: Path, order: Mapping[str, Any]) -> None:
    """Make the folder, or use one that the same order has begun.

    Args:
        order: everything that the edits depend on, as JSON.

    Raises:
        FileError: it holds edits of another order, or cannot be written.
    """
    from mechstyle.outputs import output_folder

    place = output_folder(folder)
    text = json.dumps(order, indent=1, sort_keys=True, ensure_ascii=False)
    path = place / ORDER
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise FileError(
                f"--each {folder}: holds edits that were made with other options, requests or another model "
                f"(see its {ORDER}); name another folder."
            )
        return
    if any(place.glob(f"*{SUFFIX}")):
        raise FileError(f"--each {folder}: holds edits that are not of this command; name another folder.")
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_each(
    folder: Path, editor: Editor, model: HookedModel, requests: Sequence[EditRequest], *, progress: bool
) -> list[EditSet | MemoryEdit]:
    """Compute and save the edits whose files are not there yet; all of them are returned, in order.

    Raises:
        FileError: a file cannot be written, or one that is there is damaged.
    """
    from rich.console import Console
    from rich.progress import track

    from mechstyle.editing.loading import load_edit

    width = max(3, len(str(len(requests) - 1)))
    found: list[EditSet | MemoryEdit] = []
    numbered = list(enumerate(requests))
    for index, request in track(
        numbered, "editing", console=Console(stderr=True), disable=not progress, transient=True
    ):
        path = folder / f"{index:0{width}d}{SUFFIX}"
        if path.is_file():
            found.append(load_edit(path))
            continue
        edit = editor(model, [request])
        edit.save(str(path))
        found.append(edit)
    return found
