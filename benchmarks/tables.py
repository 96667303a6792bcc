"""RESULTS.md: figures as tables, each row with when and on what it was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["markdown"]

Row = Mapping[str, Any]
RATIO_COLUMNS = ("work", "ratio", "gate", "aim", "FLOP ratio", "seconds", "GFLOP", "peak MiB", "difference")
GROWTH_COLUMNS = ("growth", "expected", "FLOPs", "time", "seconds", "memory", "peak MiB")
FLAT_COLUMNS = (
    "sequence",
    "last / first",
    "at most",
    "FLOPs",
    "seconds an edit",
    "memory",
    "at most",
)
FACTS_COLUMNS = (
    "many facts",
    "facts a minute",
    "seconds",
    "averaging",
    "last / first",
    "at most",
    "FLOPs",
    "left in memory",
    "at most",
)
PLOTS = {
    "scaling": "seconds against tokens, layers and draws",
    "many_edits": "seconds against edits, one after the other and in one batch",
}


def markdown(rows: Sequence[Row], sections: Mapping[str, Sequence[str]], suffix: str) -> str:
    """The ratios, how costs grow, what failed, and the machines.

    Args:
        sections: heading -> names of its scripts.
        suffix: of the plots' names.
    """
    machines = list(dict.fromkeys(_machine(row) for row in rows))
    parts = [
        "# Speed and memory",
        "",
        "By `make bench`; what is measured, and against what, stands in [the README](README.md).",
        "",
    ]
    for heading, scripts in sections.items():
        own = [row for row in rows if row["script"] in scripts]
        if not own:
            continue
        parts += [f"## {heading}", ""]
        kinds: list[tuple[Sequence[str], Callable[[Row], bool], Callable[[Row], list[str]]]] = [
            (RATIO_COLUMNS, lambda row: not {"slopes", "parts", "facts_a_minute"} & set(row), _ratios),
            (FLAT_COLUMNS, lambda row: "parts" in row, _flat),
            (FACTS_COLUMNS, lambda row: "facts_a_minute" in row, _facts),
            (GROWTH_COLUMNS, lambda row: "slopes" in row, _growth),
        ]
        for columns, belongs, cells in kinds:
            chosen = [row for row in own if belongs(row)]
            lines = [[*cells(row), f"{row['date']} ({machines.index(_machine(row)) + 1})"] for row in chosen]
            parts += [*_table((*columns, "measured"), lines), ""] if lines else []
        parts += _ranks([row for row in own if "rank_correlation" in row])
        measured = {row["script"] for row in own}
        for name, text in PLOTS.items():
            parts += [f"![{text}]({name}{suffix}.svg)", ""] if name in measured else []
    problems = [f"- {row['work']}: {row['problem']}" for row in rows if row["problem"]]
    parts += ["Not as it should be:", "", *problems, ""] if problems else []
    parts += ["Measured on:", "", *(f"{number}. {text}" for number, text in enumerate(machines, start=1)), ""]
    return "\n".join(parts)


def _machine(row: Row) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    machine = f"{row['device']}, {row['cores']} cores, {row['threads']} threads, {row['dtype']}"
    return f"{machine}; {versions}."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _ratios(one: Row) -> list[str]:
    pairs = [(one[name], one[f"baseline_{name}"]) for name in ("seconds", "flops", "peak_mib")]
    (seconds, baseline_seconds), (flops, baseline_flops), (mib, baseline_mib) = pairs
    return [
        one["work"],
        f"**{one['ratio']:.2f}**",
        f"{one['gate']:g}",
        f"{one['aim']:g}",
        f"{one['flop_ratio']:.2f}",
        f"{seconds:.2f} / {baseline_seconds:.2f}",
        f"{flops / 1e9:,.0f} / {baseline_flops / 1e9:,.0f}",
        f"{mib:,.0f} / {baseline_mib:,.0f}",
        f"{one['max_difference']:.1g}",
    ]


def _growth(one: Row) -> list[str]:
    return [
        one["work"],
        f"{one['power']}",
        f"{one['slopes']['flops']:.2f}",
        f"{one['slopes']['seconds']:.2f}",
        ", ".join(f"{value:.2g}" for value in one["all_seconds"]),
        f"{one['slopes']['peak']:.2f}",
        ", ".join(f"{value:.3g}" for value in one["all_peak_mib"]),
    ]


def _facts(one: Row) -> list[str]:
    return [
        one["work"],
        f"**{one['facts_a_minute']:.0f}**",
        f"{one['seconds']:.0f}",
        f"{one['averaging_seconds']:.1f}",
        f"{one['slower']:.2f}",
        f"{one['most_slower']:g}",
        f"{1 / one['flop_ratio']:.2f}",
        f"{one['memory_growth']:.2f} x {one['trace_kib']:.3g} KiB",
        f"{one['most_memory_growth']:g}",
    ]


def _ranks(rows: Sequence[Row]) -> list[str]:
    """How well estimates order the cells: Spearman correlation with exact ones, mean over facts."""
    if not rows:
        return []
    kinds = list(rows[0]["rank_correlation"])
    lines = []
    for kind in kinds:
        found = [row["rank_correlation"][kind] for row in rows]
        lines.append([kind, *(f"{one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in found)])
    return [*_table(("rank correlation", *(row["work"].split(",")[0] for row in rows)), lines), ""]


def _flat(one: Row) -> list[str]:
    return [
        one["work"],
        f"**{one['slower']:.2f}**",
        f"{one['most_slower']:g}",
        f"{1 / one['flop_ratio']:.2f}",
        ", ".join(f"{value:.3g}" for value in one["parts"]),
        f"{one['memory_growth']:.2f} x {one['stored_kib']:.3g} KiB",
        f"{one['most_memory_growth']:g}",
    ]
