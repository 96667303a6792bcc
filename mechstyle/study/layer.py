"""Which layer to edit: the best measured one where a model ships a sweep, else the peak of the traces."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mechstyle import organisms
from mechstyle.report.record import LayerChoice
from mechstyle.tracing.aggregate import suggest_layers
from mechstyle.tracing.trace import Trace

__all__ = ["choose_layer", "shipped_sweep"]

SWEEP = "sweep.csv"


def choose_layer(model: str, traces: Sequence[Trace], *, given: int | None = None) -> LayerChoice:
    """Choose the layer to edit. What was measured comes before what the traces suggest (Hase et al. 2023).

    Args:
        model: the name that the model was loaded by.
        given: the user's own choice, which wins.

    Raises:
        InputError: the traces cannot be compared, or lack the kind "mlp".

    Example:
        >>> choose_layer("organism-m", traces).by  # doctest: +SKIP
        'sweep'
    """
    suggestion = suggest_layers(traces)[0]
    sweep = shipped_sweep(model)
    if given is not None:
        return LayerChoice(given, "given", f"Layer {given} was given.", suggestion, sweep)
    if sweep is None and suggestion.interval[0] > 0:
        return LayerChoice(suggestion.layer, "trace", suggestion.reason, suggestion, None)
    if sweep is None:
        middle = traces[0].data.sizes["layer"] // 2
        reason = (
            f"No layer was given, no sweep ships with {model}, and the traces single out none: "
            f"layer {middle}, in the middle, is a guess."
        )
        return LayerChoice(middle, "middle", reason, suggestion, None)
    best = sweep.loc[sweep["score"].idxmax()]
    reason = (
        f"Layer {int(best['layer'])} has the best measured score in the sweep that ships with {model}: "
        f"harmonic mean {best['score']:.2f} of efficacy, paraphrase and neighbourhood "
        f"over {int(best['n'])} edits."
    )
    return LayerChoice(int(best["layer"]), "sweep", reason, suggestion, sweep)


def shipped_sweep(name: str) -> pd.DataFrame | None:
    """The measured sweep of an embedded model, with the harmonic mean of its three measures as ``score``.

    Example:
        >>> shipped_sweep("organism-m")  # doctest: +SKIP
    """
    if name not in organisms.names() or not (path := organisms.folder(name) / SWEEP).is_file():
        return None
    frame = pd.read_csv(path)
    parts = frame[["efficacy", "paraphrase", "neighborhood"]].clip(lower=1e-9)
    return frame.assign(score=3 / (1 / parts).sum(axis=1))
