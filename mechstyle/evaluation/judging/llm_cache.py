"""Answers of a language model on disk, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechstyle.files import atomic_write
from mechstyle.outputs import output_folder

__all__ = ["Answer", "AnswerCache"]


@dataclass(frozen=True)
class Answer:
    """What was answered, and the tokens that the server counted; None where it did not say."""

    text: str
    tokens_in: int | None
    tokens_out: int | None


@dataclass(frozen=True)
class AnswerCache:
    """A folder with a JSON file for each question, named by the hash of all that the answer depends on.

    Args:
        folder: made on the first answer.

    Example:
        >>> AnswerCache(Path("answers")).find({"model": "m", "messages": []}) is None  # doctest: +SKIP
        True
    """

    folder: Path

    def find(self, asked: Mapping[str, Any]) -> Answer | None:
        """The answer to a question; None when there is none, or its file is damaged.

        Args:
            asked: endpoint, model, messages and parameters, as JSON.
        """
        try:
            document = json.loads(self._path(asked).read_text(encoding="utf-8"))
            if document["asked"] != dict(asked):
                return None
            answer = Answer(**document["answer"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer.text, str) else None

    def keep(self, asked: Mapping[str, Any], answer: Answer) -> None:
        """Write an answer down, whole or not at all.

        Raises:
            FileError: the folder cannot be written.
        """
        output_folder(self.folder)
        document = {"asked": dict(asked), "answer": vars(answer)}
        with atomic_write(self._path(asked)) as part:
            part.write_text(json.dumps(document, indent=1), encoding="utf-8")

    def _path(self, asked: Mapping[str, Any]) -> Path:
        text = json.dumps(dict(asked), sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
