"""Small log-log plots as SVG text: measured points, and a dashed line of the expected power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Panel", "draw"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 250, 230, 50, 15, 45, 35


@dataclass(frozen=True)
class Panel:
    """Values over sizes, and the power that they should grow with."""

    name: str
    sizes: Sequence[float]
    values: Sequence[float]
    power: float


def draw(title: str, panels: Sequence[Panel]) -> str:
    """One panel beside the other; the dashed line goes through the last point: there arithmetic rules."""
    parts = [_panel(panel, index * WIDTH) for index, panel in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" text-anchor="middle" role="img" aria-label="{title}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{WIDTH * len(panels) / 2}" y="18" font-size="14">{title}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(panel: Panel, shift: float) -> str:
    expected = [panel.values[-1] * (size / panel.sizes[-1]) ** panel.power for size in panel.sizes]
    low, high = min(*panel.values, *expected), max(*panel.values, *expected)

    def x(size: float) -> float:
        return shift + LEFT + (WIDTH - LEFT - RIGHT) * _share(size, panel.sizes[0], panel.sizes[-1])

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(value, low, high)

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(
            f"{x(size):.1f},{y(value):.1f}" for size, value in zip(panel.sizes, values, strict=True)
        )
        return f'<polyline points="{points}" fill="none" {style}/>'

    dots = [
        f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="#1f5fa8"/>'
        for size, value in zip(panel.sizes, panel.values, strict=True)
    ]
    sizes = [f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 15}">{size:g}</text>' for size in panel.sizes]
    axes = f"M{shift + LEFT} {TOP}V{HEIGHT - BOTTOM}H{shift + WIDTH - RIGHT}"
    middle = shift + (WIDTH + LEFT) / 2
    ticks = [
        f'<text x="{shift + LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2g}</text>'
        for value in (low, high)
    ]
    return "\n".join(
        [
            f'<text x="{middle}" y="36">{panel.name}; dashed: power {panel.power:g}</text>',
            f'<path d="{axes}" fill="none" stroke="#888"/>',
            line(expected, 'stroke="#888" stroke-dasharray="4 3"'),
            line(panel.values, 'stroke="#1f5fa8" stroke-width="1.5"'),
            *dots,
            *sizes,
            *ticks,
        ]
    )


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)
