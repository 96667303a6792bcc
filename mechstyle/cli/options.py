"""Options that several commands share, and how a request is read from them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechstyle.cli.interrupts import stopped_between
from mechstyle.cli.output import note
from mechstyle.errors import InputError, TextError
from mechstyle.facts import EditRequest, Fact

if TYPE_CHECKING:
    from mechstyle.editing.covariance import Covariance
    from mechstyle.models import HookedModel

ORGANISM = "organism-m"
SLOT = "{}"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="An embedded model's name, a Hugging Face folder or hub id.")
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", help="The prompt, with {} where the subject stands: '{} plays the'.")
]
Subject = Annotated[str | None, typer.Option("--subject", help="What the fact is about: 'Miles Davis'.")]
Target = Annotated[
    str | None, typer.Option("--target", help="The true continuation with its leading space: ' trumpet'.")
]
New = Annotated[
    str | None, typer.Option("--new", help="The continuation that the edit shall write: ' guitar'.")
]
Paraphrases = Annotated[
    list[str] | None,
    typer.Option("--paraphrase", help="Another prompt for the same fact, whole; repeatable."),
]
Requests = Annotated[
    Path | None,
    typer.Option(
        "--requests",
        help="A file of requests: our own JSON lines, CounterFact, zsRE or pairs; its content says which.",
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="Natural text: a UTF-8 file (blank lines between documents), a folder of *.txt, or "
        "hub:owner/name[:config[:split[:column]]]; default: the organism's own.",
    ),
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache", help="Look second moments up that were measured before, and keep them."
    ),
]
Samples = Annotated[int, typer.Option("--samples", help="Noise draws in a trace.")]
Window = Annotated[int | None, typer.Option("--window", help="Layers in an MLP or attention window.")]
Bos = Annotated[
    bool | None, typer.Option("--prepend-bos/--no-prepend-bos", help="Default: as the model was trained.")
]

__all__ = [
    "ORGANISM",
    "Bos",
    "Cache",
    "Json",
    "Model",
    "New",
    "Paraphrases",
    "Prompt",
    "Quiet",
    "Requests",
    "Samples",
    "Seed",
    "Subject",
    "Target",
    "Text",
    "Window",
    "fact_from",
    "layers_from",
    "measured_covariance",
    "request_from",
    "spaced",
]


def spaced(text: str, option: str) -> str:
    """A continuation as the tokenizer wants it: with its leading space, which shells make easy to forget."""
    if not text or text[0].isspace():
        return text
    note(f"{option}: took {' ' + text!r} for {text!r}: a continuation begins with the space before its word.")
    return " " + text


def fact_from(prompt: str | None, subject: str | None, target: str | None) -> Fact:
    """The fact that the options describe.

    Raises:
        InputError: an option is missing.
        TextError: the prompt has no single place for the subject.
    """
    values = {"--prompt": prompt, "--subject": subject, "--target": target}
    missing = [name for name, value in values.items() if value is None]
    if prompt is None or subject is None or target is None:
        raise InputError(
            f"{', '.join(missing)} missing: a fact is --prompt '{SLOT} plays the' --subject 'Miles Davis' "
            "--target ' trumpet'."
        )
    return Fact(template=_template(prompt, subject), subject=subject, target=spaced(target, "--target"))


def request_from(
    prompt: str | None,
    subject: str | None,
    target: str | None,
    new: str | None,
    paraphrases: list[str] | None = None,
) -> EditRequest | None:
    """The request that the options describe, or None when none of them was given.

    Raises:
        InputError: some options were given and others are missing.
    """
    if all(value is None for value in (prompt, subject, target, new)):
        if paraphrases:
            raise InputError(
                "--paraphrase belongs to a fact: give --prompt, --subject, --target and --new too."
            )
        return None
    fact = fact_from(prompt, subject, target)
    if new is None:
        raise InputError(
            "--new missing: name the continuation that the edit shall write, such as --new ' guitar'."
        )
    return EditRequest(fact=fact, new_target=spaced(new, "--new"), paraphrases=tuple(paraphrases or ()))


def layers_from(text: str) -> list[int]:
    """The layers that ``--layers`` names.

    Raises:
        InputError: something else than whole numbers with commas between.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--layers: expected whole numbers with commas between, such as 4,5; got {text!r}.")
    return [int(part) for part in parts]


def measured_covariance(
    model: HookedModel,
    name: str,
    layers: list[int],
    *,
    text: str | None,
    n_keys: int,
    bos: bool | None,
    seed: int,
    cache: bool = True,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> Covariance:
    """Second moments over the text that was named, or over the texts that an embedded model was taught with.

    With a checkpoint Ctrl-C is answered between two batches, after the checkpoint was written.

    Args:
        cache: look them up first, and keep what is measured.
    """
    from mechstyle.documents import documents_for
    from mechstyle.editing.covariance import covariance
    from mechstyle.editing.covariance_cache import cached_covariance

    documents = documents_for(name, text, seed=seed)
    with nullcontext(documents.texts) if checkpoint is None else stopped_between(documents.texts) as texts:
        return (cached_covariance if cache else covariance)(
            model,
            texts,
            layers=layers,
            n_keys=n_keys,
            prepend_bos=bos,
            checkpoint=checkpoint,
            progress=progress,
        )


def _template(prompt: str, subject: str) -> str:
    """The prompt with ``{}`` for the subject; a prompt that names the subject itself is understood too."""
    if SLOT in prompt:
        return prompt
    found = prompt.count(subject) if subject else 0
    if found != 1:
        raise TextError(
            f"--prompt {prompt!r} must hold '{SLOT}' where the subject stands, or name the subject "
            f"{subject!r} once; it names it {found} times."
        )
    return prompt.replace(subject, SLOT, 1)
