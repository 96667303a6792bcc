"""The questions put to a language model as a judge: files with placeholders, and how answers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from mechstyle.errors import FileError, InputError, TextError
from mechstyle.evaluation.judging.judge import Judged

__all__ = ["JudgePrompt", "read_answer", "read_prompt"]

_FOLDER: Final = files("mechstyle.evaluation.judging") / "prompts"
_PARTS: Final = ("text", "prompt", "wanted", "new", "true", "labels")
_PLACE: Final = re.compile(r"\{(" + "|".join(_PARTS) + r")\}")
_HEAD: Final = "labels:"


@dataclass(frozen=True)
class JudgePrompt:
    """A question with places for what is judged, and the labels that may be the answer.

    Args:
        name: of its file.
        text: with ``{text}`` and, where they are wanted, ``{prompt}``, ``{wanted}``, ``{new}``, ``{true}``,
            ``{labels}``; other braces are left as they are.

    Example:
        >>> JudgePrompt("loud", "Is it loud? {text}", ("yes", "no")).filled(0, Judged("{new} HEY"))
        'Is it loud? {new} HEY'
    """

    name: str
    text: str
    labels: tuple[str, ...]

    def filled(self, index: int, judged: Judged) -> str:
        """The question about one text. Each place is filled once: what is written into it is not read again.

        Raises:
            TextError: a part that the question asks for is missing; the message names the text.
        """
        parts = {name: getattr(judged, name) for name in _PARTS if name != "labels"}
        parts["labels"] = ", ".join(self.labels)
        for name in _PLACE.findall(self.text):
            if parts[name] is None:
                raise TextError(
                    f"texts[{index}]: the prompt {self.name!r} asks for {name!r}; give it to Judged."
                )
        return _PLACE.sub(lambda place: parts[place.group(1)], self.text)


def read_prompt(prompt: str | Path, labels: Sequence[str] | None = None) -> JudgePrompt:
    """Read a prompt by the name of one that comes with the package, or from a file.

    Args:
        prompt: "edit_success", "style", or the path of a text file. Its first line may be ``labels: a, b``.
        labels: what may be answered; needed where the file does not say it.

    Raises:
        FileError: there is no such prompt, or it cannot be read.
        InputError: fewer than two labels, or the prompt has no place for the text.

    >>> read_prompt("edit_success").labels
    ('new', 'true', 'both', 'neither')
    """
    own = {Path(one.name).stem: one for one in _FOLDER.iterdir() if one.name.endswith(".txt")}
    place, name = own.get(str(prompt), Path(prompt)), Path(prompt).name
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"prompt: expected one of {', '.join(sorted(own))} or the path of a text file, got "
            f"{str(prompt)!r} ({getattr(error, 'strerror', None) or error})."
        ) from error
    head, _, rest = text.partition("\n")
    found: Sequence[str] = ()
    if head.startswith(_HEAD):
        text, found = rest, [one.strip() for one in head.removeprefix(_HEAD).split(",")]
    chosen = tuple(found if labels is None else labels)
    if isinstance(labels, str) or len(set(chosen)) < 2 or len(set(chosen)) < len(chosen) or not all(chosen):
        raise InputError(
            f"labels: expected two or more different ones for the prompt {name!r}, got {labels or chosen!r}; "
            f"pass labels=(...), or begin the file with a line '{_HEAD} yes, no'."
        )
    if "{text}" not in text:
        raise InputError(f"prompt: {name!r} has no place for what is judged; put {{text}} there.")
    return JudgePrompt(name, text.strip(), chosen)


def read_answer(answer: str, labels: Sequence[str]) -> tuple[str | None, float | None]:
    """Label and score of an answer: one JSON object with both, or the bare label; None for what is not said.

    Anything else has no label: it is not guessed.

    >>> labels = ("new", "true")
    >>> read_answer('{"label": "new", "score": 0.9}', labels), read_answer("Well...", labels)
    (('new', 0.9), (None, None))
    """
    bare = answer.strip().strip("\"'`.").strip()
    if bare in labels:
        return bare, None
    try:
        said = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])
    except ValueError:
        return None, None
    label, score = said.get("label"), said.get("score")
    if not isinstance(label, str) or label not in labels:
        return None, None
    whole = isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1
    return label, float(score) if whole else None
