"""``mechstyle evaluate``: how well an edit works, and what else it moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mechstyle.cli.evaluate_suite import evaluate_suite
from mechstyle.cli.options import ORGANISM, Bos, Json, Model, Quiet, Requests
from mechstyle.cli.output import emit, note
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.editing.edit import EditSet
    from mechstyle.editing.memory import MemoryEdit
    from mechstyle.evaluation.edits import Edits
    from mechstyle.facts import EditRequest

__all__ = ["evaluate"]

MAX_POSITIONS: Final = 256
N_TEXTS: Final = 500


def evaluate(
    out: Annotated[
        Path | None, typer.Option("--out", help="The scores as JSON; for a suite a folder.")
    ] = None,
    model: Model = ORGANISM,
    requests: Requests = None,
    edit: Annotated[
        list[Path] | None,
        typer.Option(
            "--edit", help="What mechstyle edit wrote; repeat it to score several, each on its own request."
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Measure all that this TOML file asks for, or scores, quick or full; --out is a folder.",
        ),
    ] = None,
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--edits",
            help="With --suite: NAME=FILE, an edit for all requests, or NAME=FOLDER, one for each; repeat it "
            "to compare several side by side.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Text that has nothing to do with the edits, for perplexity."),
    ] = None,
    n_texts: Annotated[
        int, typer.Option("--n-texts", min=1, help="Read so many documents of --text, the first ones.")
    ] = N_TEXTS,
    max_positions: Annotated[
        int, typer.Option("--max-positions", min=2, help="Read so many tokens of each document of --text.")
    ] = MAX_POSITIONS,
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write freely too.")] = False,
    prepend_bos: Bos = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of every random choice; 0, or what the suite's file says.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on requests, without and with edits: efficacy, paraphrases, neighbourhood, perplexity.

    One edit is applied for all requests; several are applied each for its own. Without --requests the edits'
    own requests are scored.

    With --suite or --edits everything that a suite asks for is measured, of several edits side by side:
    OUT/report.html, results.json, summary.csv, comparison.csv and a table a measure. The same command goes on
    after a kill.
    """
    if suite is not None or edits:
        _only_with_scores(
            {
                "--edit": edit,
                "--text": text,
                "--generate": generate,
                "--n-texts": n_texts != N_TEXTS,
                "--max-positions": max_positions != MAX_POSITIONS,
            }
        )
        evaluate_suite(
            out=out,
            model=model,
            suite=suite,
            requests=requests,
            edits=edits or [],
            prepend_bos=prepend_bos,
            seed=seed,
            as_json=as_json,
            quiet=quiet,
        )
        return
    seed = 0 if seed is None else seed
    paths = edit or []
    if not paths and requests is None:
        raise InputError("nothing to score: give --requests FILE, --edit FILE, or both.")
    from mechstyle.datasets import read_edit_file
    from mechstyle.editing.loading import load_edit
    from mechstyle.evaluation.scores import evaluate as score
    from mechstyle.files import atomic_write
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.threads import few_threads

    if out is not None:
        require_writable(out)
    loaded = [load_edit(path) for path in paths]
    wanted = (
        [request for one in loaded for request in one.requests]
        if requests is None
        else read_edit_file(requests)
    )
    _require_pairs(paths, loaded, wanted, requests)
    texts = None if text is None else _first_documents(text, n_texts)
    scored: Edits | None = loaded
    if len(loaded) <= 1:
        scored = loaded[0] if loaded else None
    hooked = load_model(model)
    with few_threads(hooked):
        scores = score(
            hooked,
            wanted,
            edits=scored,
            prepend_bos=prepend_bos,
            perplexity_texts=texts,
            max_positions=max_positions,
            generate=generate,
            progress=not quiet,
        )
    if out is not None:
        with atomic_write(out) as part:
            part.write_text(scores.to_json(seed=seed) + "\n", encoding="utf-8")
    lines = []
    for stage in scores.stages:
        lines.append(f"{stage} the edit:" if paths else "the model as it is:")
        table = scores.summary(stage=stage, seed=seed)
        for name, value, low, high in table[["value", "low", "high"]].dropna(subset="value").itertuples():
            bounds = f"  [{low:.3f}, {high:.3f}]" if math.isfinite(low) else ""
            lines.append(f"  {name:24s} {value:.3f}{bounds}")
        if scores.perplexity is not None and texts is not None:
            number = f"of {len(texts)} {'document' if len(texts) == 1 else 'documents'}"
            lines.append(f"  {'perplexity':24s} {scores.perplexity[stage]:.3f}  {number}")
    lines += [] if out is None else [str(out)]
    emit(scores.to_dict(seed=seed), "\n".join(lines), as_json=as_json)


def _only_with_scores(options: Mapping[str, object]) -> None:
    """Refuse options that a suite has in its file.

    Raises:
        InputError: one of them was given.
    """
    for option, value in options.items():
        if value:
            other = "give --edits NAME=FILE" if option == "--edit" else "say so in the suite's file"
            raise InputError(f"{option}: not with --suite or --edits; {other}.")


def _require_pairs(
    paths: Sequence[Path],
    edits: Sequence[EditSet | MemoryEdit],
    wanted: Sequence[EditRequest],
    file: Path | None,
) -> None:
    """Refuse edits that do not find their requests.

    Raises:
        InputError: no requests, or several edits that are not one for each request.
    """
    if not wanted:
        raise InputError(f"--edit {paths[0]}: it names no request; give --requests FILE too.")
    if len(paths) < 2:
        return
    if file is not None and len(wanted) != len(paths):
        raise InputError(
            f"--requests {file}: several --edit are applied each for its own request, in their order, but it "
            f"holds {len(wanted)} and {len(paths)} edits were given; score the edits one at a time."
        )
    if file is not None:
        return
    for path, edit in zip(paths, edits, strict=True):
        if len(edit.requests) != 1:
            raise InputError(
                f"--edit {path}: it holds {len(edit.requests)} requests, and of several edits each must hold "
                "one request; score them one at a time, or merge them: mechstyle ledger DIR --merge FILE."
            )


def _first_documents(source: Path, number: int) -> list[str]:
    """The first documents of a source; a note says when there are more."""
    from mechstyle.documents import text_stream

    found = list(islice(text_stream(source), number + 1))
    if len(found) > number:
        note(f"--text {source}: took its first {number} documents; --n-texts takes more or fewer.")
    return found[:number]
