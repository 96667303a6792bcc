"""``mechstyle export``: the edited model as a Hugging Face folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechstyle.cli.books import require_ledger, require_own_ledger
from mechstyle.cli.options import ORGANISM, Json, Model, Quiet, Seed
from mechstyle.cli.output import emit, note
from mechstyle.errors import FileError, InputError

if TYPE_CHECKING:
    from mechstyle.editing.edit import EditSet

__all__ = ["export"]


def export(
    out: Annotated[Path, typer.Option("--out", help="A new folder for the edited model.")],
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="The folder of a ledger: its active entries count."),
    ] = None,
    edit: Annotated[
        list[Path] | None,
        typer.Option("--edit", help="Instead of --ledger: what mechstyle edit wrote; repeat it for several."),
    ] = None,
    model: Model = ORGANISM,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all and show what would be written; write nothing.")
    ] = False,
    as_json: Json = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write the edited model as a Hugging Face folder, which plain transformers loads."""
    paths = edit or []
    if (ledger is None) == (not paths):
        raise InputError("give either --ledger DIR, or --edit FILE, which may be repeated.")
    from mechstyle.outputs import require_outside_ledgers

    require_outside_ledgers(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise FileError(f"--out {out}: expected a new or empty folder, and it is not; name another one.")
    from mechstyle.editing.ledger import Ledger
    from mechstyle.models import export_hf, load_model, named_weights, require_editable
    from mechstyle.threads import few_threads

    if ledger is not None:
        require_ledger(ledger, "--ledger")
    edits = [_of_weights(path) for path in paths]
    hooked = load_model(model)
    require_editable(hooked)
    with few_threads(hooked), ExitStack() as undo:
        if ledger is not None:
            require_own_ledger(ledger, hooked, model)
            book = undo.enter_context(Ledger.open(hooked, ledger))
            edits = [entry.edit for entry in book.entries if entry.active]
            if not edits:
                note(f"--ledger {ledger}: no entry is active, so this is the model without any edit.")
        else:
            for one in edits:
                undo.enter_context(one.applied(hooked))
        n_bytes = sum(weight.numel() * weight.element_size() for weight in named_weights(hooked).values())
        if not dry_run:
            export_hf(hooked, out)
    parameters = list(dict.fromkeys(name for one in edits for name in one.parameters))
    requests = [request.to_dict() for one in edits for request in one.requests]
    summary = {
        "out": str(out),
        "model": model,
        "dry_run": dry_run,
        "n_edits": len(edits),
        "parameters": parameters,
        "requests": requests,
        "n_bytes": n_bytes,
    }
    lines = [
        f"{len(edits)} edits of {len(requests)} requests change {', '.join(parameters) or 'nothing'}",
        f"{n_bytes / 1e6:.1f} MB of weights" + (": nothing is written (--dry-run)" if dry_run else ""),
        str(out),
    ]
    emit(summary, "\n".join(lines), as_json=as_json)


def _of_weights(path: Path) -> EditSet:
    """The edit in a file.

    Raises:
        InputError: it leaves the weights alone.
        FileError: there is none, or it is damaged.
    """
    from mechstyle.editing.edit import EditSet
    from mechstyle.editing.loading import load_edit

    found = load_edit(path)
    if not isinstance(found, EditSet):
        raise InputError(f"--edit {path}: it leaves the weights alone, so there is nothing of it to export.")
    return found
