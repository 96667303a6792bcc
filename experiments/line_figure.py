"""Figures of the experiments' pages, as SVG: lines with bands, and dots with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 250, 170, 42, 30, 34
HUES = ("#215e54", "#963a34", "#483d7a", "#ba8c50", "#3c4a5c")
Ends = tuple[Sequence[float], Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Line:
    """Values over x with the ends of their intervals."""

    x: Sequence[float]
    ends: Ends

    @property
    def mean(self) -> Sequence[float]:
        """The values."""
        return self.ends[0]


def lines(path: Path, panels: Mapping[str, Mapping[str, Line]], *, columns: int, x: str, y: str) -> None:
    """Write panels, each with a line a name; all share both axes."""
    every = [line for panel in panels.values() for line in panel.values()]
    low = min(0.0, min(min(line.ends[1]) for line in every))
    high = max(max(line.ends[2]) for line in every)
    right = max(max(line.x) for line in every)
    step = _step(high - low)
    ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    drawn = []
    for number, (title, panel) in enumerate(panels.items()):
        dx, dy = number % columns * WIDTH, number // columns * HEIGHT + 26

        def at(one: float, value: float, dx: int = dx, dy: int = dy) -> str:
            across = dx + LEFT + one / right * (WIDTH - LEFT - 12)
            return f"{across:.1f},{dy + TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

        drawn.append(f'<text x="{dx + LEFT}" y="{dy + 20}" font-weight="bold">{escape(title)}</text>')
        for tick in ticks:
            ends = at(0, tick), at(right, tick)
            drawn.append(f'<polyline points="{ends[0]} {ends[1]}" stroke="#e2e4e8"/>')
            place = ends[0].split(",")
            left, down = float(place[0]) - 5, float(place[1]) + 4
            drawn.append(f'<text x="{left}" y="{down}" text-anchor="end">{tick:.2g}</text>')
        for name, line in panel.items():
            hue, (mean, lows, highs) = HUES[names.index(name) % len(HUES)], line.ends
            around = [*zip(line.x, highs, strict=True), *reversed(list(zip(line.x, lows, strict=True)))]
            drawn.append(f'<polygon points="{_points(at, around)}" fill="{hue}" opacity="0.16"/>')
            middle = _points(at, list(zip(line.x, mean, strict=True)))
            drawn.append(f'<polyline points="{middle}" fill="none" stroke="{hue}" stroke-width="2"/>')
        foot = dy + HEIGHT - 12
        drawn.append(f'<text x="{dx + LEFT}" y="{foot}">0</text>')
        drawn.append(f'<text x="{dx + WIDTH - 12}" y="{foot}" text-anchor="end">{right:g}</text>')
        drawn.append(f'<text x="{dx + WIDTH / 2}" y="{foot}" text-anchor="middle">{escape(x)}</text>')
    key = "".join(
        f'<tspan fill="{HUES[number % len(HUES)]}">━ {escape(name)}</tspan>   '
        for number, name in enumerate(names)
    )
    drawn.append(f'<text x="{LEFT}" y="18" xml:space="preserve">{key}{escape(y)}</text>')
    _write(path, WIDTH * columns, 30 + HEIGHT * math.ceil(len(panels) / columns), drawn)


def dots(path: Path, rows: Mapping[str, tuple[float, float, float, str]], *, x: str) -> None:
    """Write a line a name: a dot, its interval, and a word at the right."""
    low = min(0.0, *(row[1] for row in rows.values()))
    high = max(row[2] for row in rows.values())
    labels, width, height = 230, 620, 26

    def at(value: float) -> float:
        return round(labels + (value - low) / (high - low) * (width - labels - 130), 1)

    bottom = 20 + height * len(rows)
    drawn = [f'<line x1="{at(0)}" x2="{at(0)}" y1="10" y2="{bottom}" stroke="#c9ccd2"/>']
    for number, (name, (value, start, stop, word)) in enumerate(rows.items()):
        y = 24 + height * number
        drawn += [
            f'<text x="8" y="{y + 4}">{escape(name)}</text>',
            f'<line x1="{at(start)}" x2="{at(stop)}" y1="{y}" y2="{y}" stroke="{HUES[0]}" stroke-width="2"/>',
            f'<circle cx="{at(value)}" cy="{y}" r="4.5" fill="{HUES[0]}"/>',
            f'<text x="{width - 8}" y="{y + 4}" text-anchor="end">{escape(word)}</text>',
        ]
    step = _step(high - low)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        drawn.append(
            f'<text x="{at(number * step)}" y="{bottom + 14}" text-anchor="middle">{number * step:.2g}</text>'
        )
    drawn.append(f'<text x="8" y="{bottom + 14}">{escape(x)}</text>')
    _write(path, width, bottom + 22, drawn)


def _step(reach: float) -> float:
    """A round distance between about four ticks."""
    size = 10 ** math.floor(math.log10(reach / 4))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= reach / 4)


def _points(at: object, pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(at(*pair) for pair in pairs)  # type: ignore[operator]


def _write(path: Path, width: float, height: float, drawn: Sequence[str]) -> None:
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#2b2e33">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n",
        encoding="utf-8",
    )
