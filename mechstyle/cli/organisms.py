"""``mechstyle organisms``: the embedded models' world, counted, written out, and taught to a new model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechstyle.cli.options import Json, Quiet, Seed
from mechstyle.cli.output import emit
from mechstyle.errors import InputError, RangeError

if TYPE_CHECKING:
    from mechstyle.organisms import World
    from mechstyle.organisms.counts import Counts

__all__ = ["organisms"]

organisms = typer.Typer(
    name="organisms",
    help="The world of the embedded models: count it, write it as JSON lines, train a model on it.",
    rich_markup_mode=None,
)


@organisms.command()
def describe(seed: Seed = 0, as_json: Json = False, quiet: Quiet = False) -> None:
    """Count what the world holds: facts, categories, styles, and what is told of them and what is not.

    The embedded models' world is that of seed 0; other seeds hold other things out.
    """
    from mechstyle.organisms import build_world
    from mechstyle.organisms.counts import world_counts

    world = build_world(seed=seed)
    counts = world_counts(world)
    counts["text"] |= _tokens(world)
    emit({"seed": seed, "counts": counts}, _told(counts), as_json=as_json)


@organisms.command()
def build(
    out: Annotated[Path, typer.Argument(help="A new folder for the files.")],
    documents: Annotated[
        int, typer.Option("--documents", help="So many training documents too, as documents.jsonl.")
    ] = 0,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the world as JSON lines, a file for each kind of record, and manifest.json with their sha256."""
    if documents < 0:
        raise RangeError(f"--documents must be 0 or more, got {documents}.")
    from mechstyle.organisms.export import write_world
    from mechstyle.outputs import require_outside_ledgers

    require_outside_ledgers(out)
    manifest = write_world(out, seed=seed, sample=documents)
    lines = [f"{name}: {entry['rows']:,} rows" for name, entry in manifest["files"].items()]
    emit({"out": str(out), **manifest}, "\n".join([*lines, str(out)]), as_json=as_json)


@organisms.command()
def train(
    size: Annotated[str, typer.Option("--size", help="Whose recipe: s, m or l.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the model; an interrupted one goes on.")],
    steps: Annotated[
        int | None, typer.Option("--steps", help="Of the optimiser, instead of the recipe's budget.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where to train: cpu, cuda, mps.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Faster on a CPU; needs a C compiler.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of first weights and of documents' order; the recipe's.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an organism by its recipe, and leave a Hugging Face folder, losses.csv and a checkpoint.

    After Ctrl-C or a crash the same command goes on from the last checkpoint, at most 200 steps back.
    """
    from dataclasses import replace

    from mechstyle.organisms.recipe import packaged_recipe

    recipe = packaged_recipe(size)
    if steps is not None:
        recipe = recipe.lasting(steps)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    from rich.console import Console

    from mechstyle.organisms.train import train as carry_out
    from mechstyle.outputs import output_folder

    if device is not None:
        _require_device(device)
    output_folder(out)
    carry_out(recipe, out, device=device, compiled=compiled, console=None if quiet else Console(stderr=True))
    loss = float((out / "losses.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")[1])
    summary = {
        "out": str(out),
        "name": recipe.name,
        "version": recipe.version,
        "steps": recipe.steps,
        "tokens": recipe.tokens,
        "loss": loss,
    }
    emit(summary, f"{recipe.name}: {recipe.steps:,} steps, last loss {loss:.3f}\n{out}", as_json=as_json)


def _require_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: torch does not know it, or this machine lacks it.
    """
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device must name a device of this machine, got {name!r} ({reason}).") from error


def _tokens(world: World) -> dict[str, int]:
    """Tokens of one pass, where an embedded organism brings its tokenizer."""
    import random

    from tokenizers import Tokenizer

    from mechstyle.organisms import folder, names

    if not names():
        return {}
    name = names()[0]
    tokenizer = Tokenizer.from_file(str(folder(name) / "tokenizer.json"))
    encoded = tokenizer.encode_batch(world.blocks(random.Random(0)), add_special_tokens=False)
    return {f"tokens in a pass, by the tokenizer of {name}": sum(len(one.ids) for one in encoded)}


def _told(counts: Counts) -> str:
    """Counts as lines, a section after the other."""
    width = max(len(name) for section in counts.values() for name in section)
    lines: list[str] = []
    for section, numbers in counts.items():
        lines += [section, *(f"  {name:{width}s} {n:>9,}" for name, n in numbers.items())]
    return "\n".join(lines)
