"""Comparisons of traces: of many prompts with each other, and of models by relative depth."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.plot.panels import SMALLEST, kind_name
from mechstyle.plot.style import INK, MUTED, RULE, Hue, band, rgb, style
from mechstyle.tokens import ROLES
from mechstyle.tracing.compare_models import ModelComparison
from mechstyle.tracing.compare_prompts import PromptComparison

__all__ = ["compare_models", "compare_prompts"]

NEAR: Hue = (72, 61, 122)
MODEL_HUES: tuple[Hue, ...] = (
    (33, 94, 84),
    (150, 58, 52),
    (72, 61, 122),
    (186, 140, 80),
    (60, 74, 92),
    (120, 108, 158),
)
MOST_LABELS = 40
MOST_POINTS = 4000
BINS = 8
SITES = ("last subject token", "last prompt token")


def compare_prompts(comparison: PromptComparison, *, distance: str | None = None) -> go.Figure:
    """Show how far traces are apart: as a clustered map, and against a distance between their prompts.

    Dark cells of the map are traces that are alike. In the scatter a point is a pair of facts (every n-th of
    them where there are more than 4000), the line joins the means of groups of equally many pairs, and the
    title has the rank correlation with its permutation p.

    Args:
        distance: between prompts, one of those compared; None is the one with the largest correlation.

    Raises:
        InputError: an unknown distance.

    Example:
        >>> plot.compare_prompts(compare_prompts(traces, model=model), distance="edit").show()
    """
    table = comparison.mantel
    names = [str(name) for name in table.index]
    if distance is not None and distance not in names:
        raise InputError(f"distance: expected one of {', '.join(names)}, got {distance!r}.")
    chosen = str(table["r"].fillna(-1.0).idxmax()) if distance is None else distance
    order = list(comparison.order)
    facts = [comparison.facts[index] for index in order]
    shown = [_fact_name(fact) for fact in facts]
    r, p = (float(table.loc[chosen, name]) for name in ("r", "p"))
    figure = make_subplots(
        cols=2,
        column_widths=[0.52, 0.48],
        horizontal_spacing=0.15,
        subplot_titles=[
            "distance between traces",
            f"{html.escape(chosen)}: rank correlation {r:.2f}, p = {p:.2g}",
        ],
    )
    places = list(range(len(order)))
    figure.add_trace(
        go.Heatmap(
            x=places,
            y=places,
            z=comparison.distances[np.ix_(order, order)],
            zmin=0.0,
            colorscale=[(step / 4, rgb(NEAR, 1 - step / 4)) for step in range(5)],
            customdata=[[f"{row}<br>{column}" for column in shown] for row in shown],
            hovertemplate="%{customdata}<br>distance %{z:.3g}<extra></extra>",
            colorbar={
                "thickness": 8,
                "outlinewidth": 0,
                "tickfont": {"size": 10},
                "nticks": 5,
                "x": 0.45,
            },
        ),
        row=1,
        col=1,
    )
    pairs = comparison.pairs
    far, apart = pairs[chosen].to_numpy(float), pairs["trace"].to_numpy(float)
    step = -(-len(pairs) // MOST_POINTS)
    figure.add_trace(
        go.Scatter(
            x=far[::step],
            y=apart[::step],
            mode="markers",
            marker={"size": 4, "color": rgb(NEAR, alpha=0.28)},
            customdata=[
                f"{_fact_name(comparison.facts[first])}<br>{_fact_name(comparison.facts[second])}"
                for first, second in pairs[["first", "second"]].to_numpy()[::step]
            ],
            hovertemplate="%{customdata}<br>prompts %{x:.3g}, traces %{y:.3g}<extra></extra>",
            showlegend=False,
        ),
        row=1,
        col=2,
    )
    figure.add_trace(
        go.Scatter(
            **_means(far, apart),
            mode="lines+markers",
            line={"color": INK, "width": 2},
            marker={"size": 6},
            hovertemplate="mean of pairs around %{x:.3g}: %{y:.3g}<extra></extra>",
            showlegend=False,
        ),
        row=1,
        col=2,
    )
    few = len(order) <= MOST_LABELS
    style(figure, height=max(380, 12 * len(order) + 110) if few else 520)
    figure.update_annotations(font={"size": 13, "color": INK})
    labels = {"tickvals": places, "ticktext": [_subject(fact) for fact in facts]} if few else {}
    figure.update_yaxes(
        autorange="reversed",
        showline=False,
        ticks="",
        showticklabels=few,
        automargin=True,
        tickfont={"size": 9.5},
        **labels,
        row=1,
        col=1,
    )
    figure.update_xaxes(showline=False, ticks="", showticklabels=False, row=1, col=1)
    figure.update_xaxes(title_text=f"distance between prompts: {html.escape(chosen)}", row=1, col=2)
    figure.update_yaxes(
        title_text="distance between traces", showgrid=True, gridcolor="#eeeff1", row=1, col=2
    )
    return figure


def compare_models(
    comparison: ModelComparison, *, roles: Sequence[str] | None = SITES, kinds: Sequence[str] | None = None
) -> go.Figure:
    """Show average effects of several models over relative depth: a line a model, with its band.

    Args:
        roles: a row of panels each; None shows all.
        kinds: a column of panels each; None shows all.

    Raises:
        InputError: nothing is left to draw.

    Example:
        >>> plot.compare_models(compare_models({"small": small, "large": large})).show()
    """
    curves = comparison.curves
    curves = curves if roles is None else curves[curves["role"].isin(roles)]
    curves = curves if kinds is None else curves[curves["kind"].isin(kinds)]
    if curves.empty:
        there = (", ".join(comparison.curves[name].unique()) for name in ("role", "kind"))
        raise InputError(
            f"roles, kinds: nothing to draw with roles={roles} and kinds={kinds}; the comparison has "
            f"{' and '.join(there)}."
        )
    across = list(dict.fromkeys(curves["kind"]))
    found = set(curves["role"])
    down = [role for role in ROLES if role in found]
    down += [role for role in dict.fromkeys(curves["role"]) if role not in down]
    figure = make_subplots(
        rows=len(down),
        cols=len(across),
        shared_yaxes="all",
        horizontal_spacing=0.04,
        vertical_spacing=0.24 / len(down),
        subplot_titles=[f"{kind_name(kind)}, {html.escape(role)}" for role in down for kind in across],
    )
    models = list(dict.fromkeys(comparison.curves["model"]))
    named: set[str] = set()
    for (role, kind), rows in curves.groupby(["role", "kind"], sort=False):
        place = {"row": down.index(str(role)) + 1, "col": across.index(str(kind)) + 1}
        for model in (model for model in models if model in set(rows["model"])):
            _add_model(figure, comparison, model, models.index(model), str(role), str(kind), place, named)
    style(figure, height=120 + 220 * len(down))
    figure.update_annotations(font={"size": 12.5, "color": INK})
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_xaxes(title_text="relative depth", row=len(down))
    drawn = curves[["low", "mean", "high"]]  # one draw of one fact has no interval
    least, most = min(0.0, float(drawn.min().min())), max(SMALLEST, float(drawn.max().max()))
    figure.update_yaxes(
        range=[least - 0.05 * (most - least), most + 0.05 * (most - least)],
        showgrid=True,
        gridcolor="#eeeff1",
        zeroline=True,
        zerolinecolor=RULE,
    )
    figure.update_yaxes(title_text="average indirect effect", title_font_color=MUTED, col=1)
    figure.update_layout(legend={"y": -50 / (220 * len(down))}, margin={"b": 84, "t": 34})
    return figure


def _add_model(
    figure: go.Figure,
    comparison: ModelComparison,
    model: str,
    number: int,
    role: str,
    kind: str,
    place: dict[str, int],
    named: set[str],
) -> None:
    """The line and the band of one model in one panel."""
    curves = comparison.curves
    rows = curves[(curves["model"] == model) & (curves["role"] == role) & (curves["kind"] == kind)]
    rows = rows.sort_values("depth")
    hue, depths = MODEL_HUES[number % len(MODEL_HUES)], rows["depth"].tolist()
    figure.add_trace(band(depths, rows["low"].tolist(), rows["high"].tolist(), hue=hue, group=model), **place)
    figure.add_trace(
        go.Scatter(
            x=depths,
            y=rows["mean"],
            mode="lines",
            name=html.escape(model, quote=False),
            legendgroup=model,
            showlegend=model not in named,
            line={
                "color": rgb(hue),
                "width": 2,
                "dash": ("solid", "dash", "dot")[number // len(MODEL_HUES) % 3],
            },
            customdata=rows[["low", "high", "n_facts"]].to_numpy(),
            hovertemplate=(
                "depth %{x:.2f}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
                f", %{{customdata[2]}} facts<extra>{html.escape(model, quote=False)}</extra>"
            ),
        ),
        **place,
    )
    named.add(model)


def _means(x: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    """Means of both over groups of equally many pairs in the order of x; equal x stay together."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, BINS + 1)))
    group = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 1, 0))
    there = np.unique(group)
    return {
        "x": [float(x[group == one].mean()) for one in there],
        "y": [float(y[group == one].mean()) for one in there],
    }


def _fact_name(fact: Fact) -> str:
    return html.escape(f"{fact.prompt} →{fact.target}", quote=False)


def _subject(fact: Fact) -> str:
    shown = fact.subject if len(fact.subject) <= 22 else f"{fact.subject[:21].rstrip()}…"
    return html.escape(shown, quote=False)
