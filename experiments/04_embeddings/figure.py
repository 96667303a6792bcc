"""An SVG of dots: what is left of P(answer) after a change, and after a random one as large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LABELS, ROW = 760, 250, 24
INK, CONTROL = "#215e54", "#969aa2"


def dots(path: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write one block a table and one line a change; the interval is that of the change's own effect."""
    lines, y = [], 34
    for name, rows in tables.items():
        lines.append(f'<text x="8" y="{y}" font-weight="bold">{escape(name)}</text>')
        for row in rows:
            y += ROW
            low, high = (row["clean"] + one for one in row["changed - clean"][1:])
            lines += [
                f'<text x="24" y="{y + 4}">{escape(str(row["change"]))}</text>',
                f'<line x1="{_x(low)}" x2="{_x(high)}" y1="{y}" y2="{y}" stroke="{INK}" stroke-width="1.5"/>',
                f'<circle cx="{_x(row["changed"])}" cy="{y}" r="4.5" fill="{INK}"/>',
                f'<circle cx="{_x(row["control"])}" cy="{y}" r="4" fill="none" stroke="{CONTROL}" '
                'stroke-width="1.8"/>',
            ]
        y += ROW + 12
    grid = [
        f'<line x1="{_x(one)}" x2="{_x(one)}" y1="22" y2="{y - 20}" stroke="#e2e4e8"/>'
        f'<text x="{_x(one)}" y="{y - 4}" text-anchor="middle">{one}</text>'
        for one in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    key = (
        f'<text x="{LABELS}" y="14" fill="{INK}">● changed, 95 % interval over facts</text>'
        f'<text x="{LABELS + 270}" y="14" fill="#6b7078">○ random change as large</text>'
        f'<text x="{WIDTH - 20}" y="{y + 14}" text-anchor="end">P(answer)</text>'
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 22}" '
        f'font-family="sans-serif" font-size="13" fill="#2b2e33">'
        f'<rect width="100%" height="100%" fill="white"/>{key}{"".join(grid)}{"".join(lines)}</svg>\n',
        encoding="utf-8",
    )


def _x(value: float) -> float:
    return round(LABELS + max(0.0, min(1.0, value)) * (WIDTH - LABELS - 30), 1)
