"""A griffe extension: docstring examples become sections, which the site shows as highlighted sessions."""

from __future__ import annotations

from typing import Any

import griffe

HEADING = "Examples:"


class Examples(griffe.Extension):
    """Put every ``>>>`` paragraph under the heading that Google-style docstrings know."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _with_headings(obj.docstring.value)


def _with_headings(text: str) -> str:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        begins = line.startswith(">>>") and not inside
        inside = bool(line.strip()) and (inside or begins)
        if begins:
            lines.append(HEADING)
        indented = f"    {line}" if inside else line
        lines.append(HEADING if line == "Example:" else indented)
    return "\n".join(lines)
