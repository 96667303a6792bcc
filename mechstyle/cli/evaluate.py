"""``mechstyle evaluate``: how well an edit works, and what else it moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechstyle.cli.options import ORGANISM, Bos, Json, Model, Quiet, Requests, Seed
from mechstyle.cli.output import emit
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.evaluation.edits import Edits

__all__ = ["evaluate"]


def evaluate(
    out: Annotated[Path | None, typer.Option("--out", help="The scores, as JSON.")] = None,
    model: Model = ORGANISM,
    requests: Requests = None,
    edit: Annotated[
        list[Path] | None,
        typer.Option(
            "--edit", help="What mechstyle edit wrote; repeat it to score several, each on its own request."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Text that has nothing to do with the edits, for perplexity."),
    ] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write freely too.")] = False,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on requests, without and with edits: efficacy, paraphrases, neighbourhood, perplexity.

    One edit is applied for all requests; several are applied each for its own. Without --requests the edits'
    own requests are scored.
    """
    paths = edit or []
    if not paths and requests is None:
        raise InputError("nothing to score: give --requests FILE, --edit FILE, or both.")
    from mechstyle.datasets import read_edit_file
    from mechstyle.documents import read_documents
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
    texts = None if text is None else list(read_documents(text))
    edits: Edits | None = loaded
    if len(loaded) <= 1:
        edits = loaded[0] if loaded else None
    hooked = load_model(model)
    with few_threads(hooked):
        scores = score(
            hooked,
            wanted,
            edits=edits,
            prepend_bos=prepend_bos,
            perplexity_texts=texts,
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
        if scores.perplexity is not None:
            lines.append(f"  {'perplexity':24s} {scores.perplexity[stage]:.3f}")
    lines += [] if out is None else [str(out)]
    emit(scores.to_dict(seed=seed), "\n".join(lines), as_json=as_json)
