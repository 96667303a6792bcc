"""``mechstyle reproduce``: our row beside a published one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechstyle.cli.options import Json, Quiet
from mechstyle.cli.output import emit
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.study.reproduce.manifest import Manifest

__all__ = ["reproduce"]


def reproduce(
    manifest: Annotated[
        str | None, typer.Argument(help="A manifest that ships, by name, or a TOML file; see --list.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The published file that the manifest names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for table.csv, result.json and each request's rows.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Take the first requests only, to see that it runs.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the weights are, if not under the manifest's name."),
    ] = None,
    covariance: Annotated[
        Path | None,
        typer.Option("--covariance", help="What mechstyle covariance wrote, for the manifest's layers."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help="Natural text for second moments, where no --covariance is given."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Name the manifests that ship, and what they want.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where a figure is not reproduced.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Edit, score, and put our row of a table beside the published one, with tolerance and verdict.

    A figure that is not reproduced is a finding, not a failure: the exit code is 0, unless --strict. Run the
    same command again to go on after a crash.
    """
    from mechstyle.study.reproduce.manifest import manifest_names, read_manifest

    if listed:
        if manifest is not None:
            raise InputError(f"--list names what there is; leave {manifest} out.")
        known = [read_manifest(name) for name in manifest_names()]
        emit({"manifests": [one.to_dict() for one in known]}, "\n".join(map(_line, known)), as_json=as_json)
        return 0
    if manifest is None:
        raise InputError("MANIFEST missing: name one that ships, or a TOML file; --list shows them.")
    if out is None:
        raise InputError("--out missing: name a folder, in which an interrupted run goes on.")
    from mechstyle.study.reproduce.run import reproduce as carry_out

    found = carry_out(
        read_manifest(manifest),
        data=data,
        folder=out,
        limit=limit,
        model=model,
        covariance=covariance,
        text=text,
        progress=not quiet,
    )
    emit({**found.to_dict(), "out": str(out)}, f"{found.to_text()}\n{out}", as_json=as_json)
    return 1 if strict and found.contradicted else 0


def _line(manifest: Manifest) -> str:
    """What a manifest is about, in one line."""
    part = manifest.data
    number = "all" if part.records is None else f"{part.records:,}"
    wants = f"facts of {part.organism}" if part.file is None else part.file
    return f"{manifest.name:24s} {manifest.row.label:40s} {number} of {wants}"
