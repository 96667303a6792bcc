"""Hyper-parameters for a model that has no published ones: layers by a sweep, numbers scaled."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.hparams import Hyperparameters, all_hyperparameters, published_widths
from mechstyle.editing.layer_sweep import best_layer, sweep_layers
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, require_hooked

__all__ = ["HparamsWarning", "Suggestion", "suggest_hparams"]


class HparamsWarning(UserWarning):
    """Hyper-parameters that nothing speaks for, or that cannot be used with what was given."""


@dataclass(frozen=True, eq=False)
class Suggestion:
    """Hyper-parameters for a model, and the evidence.

    Args:
        sweep: scores of each layer that was tried, as ``sweep_layers`` returns; None without requests.
    """

    hyperparameters: Hyperparameters
    sweep: pd.DataFrame | None


def suggest_hparams(
    model: HookedModel,
    method: str,
    *,
    requests: EditRequest | Sequence[EditRequest] | None = None,
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]] | None = None,
    layers: Sequence[int] | None = None,
    width: int | None = None,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> Suggestion:
    """Find hyper-parameters of a closed-form method for a model without published ones.

    Layers: each candidate is tried on the requests (``sweep_layers``) and the best is taken; a method that
    spreads over layers gets the run of layers that ends there. ``mom2_weight`` is the median published
    multiple of ``d_mlp``, times this model's. Options of the target search are the commonest published ones.
    What has no scale that carries over (EMMET's ridge, AlphaEdit's cutoff) is left to the editor.

    Args:
        method: ``"rome"``, ``"memit"``, ``"emmet"`` or ``"alphaedit"``.
        requests: a handful to try, with paraphrases and neighbours. None tries nothing: a quarter of the
            depth is a guess, since where facts sit depends on the model and its training more than on its
            depth.
        covariance: needed to try requests; layers, contexts, seed, prepend_bos, progress: as there.
        width: number of layers to write into; None is the median published share of the depth.

    Raises:
        InputError: an unknown method, requests without a covariance, or as ``sweep_layers``.
        RangeError: ``width`` is below 1, or a layer is out of range.
        ModelError, TextError: as ``sweep_layers``.

    Warns:
        HparamsWarning: without requests; no layer's score is above 0; or the layers to write include some
            whose second moments the covariance lacks (``source`` names them too).

    >>> found = suggest_hparams(model, "memit", requests=requests[:6], covariance=moments)  # doctest: +SKIP
    >>> memit(model, requests, covariance=moments, **found.hyperparameters.arguments)  # doctest: +SKIP
    """
    require_hooked(model)
    rows = [row for row in all_hyperparameters() if row.method == method]
    if not any(row.target_options for row in rows):
        closed = dict.fromkeys(row.method for row in all_hyperparameters() if row.target_options)
        raise InputError(
            f"method: expected one of {', '.join(closed)}, got {method!r}; fine-tuning has no layer that a "
            "closed form could try (published: layer 0 for FT-L)."
        )
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise RangeError(f"width: expected a whole number of 1 or more, got {width!r}.")
    if requests is not None and covariance is None:
        raise InputError(
            "covariance: expected one with the requests, got None; collect it for the layers to try: "
            "without it an edit disturbs neighbours, and a wrong layer looks best."
        )
    n_layers, d_mlp = int(model.cfg.n_layers), int(model.cfg.d_mlp)
    if requests is None or covariance is None:
        sweep, last = None, n_layers // 4
        how = f"a guess, a quarter of {n_layers}"
        warnings.warn(
            f"suggest_hparams: layer {last} of {n_layers} is a guess, for no requests were given to try; "
            "pass requests=, with paraphrases and neighbours.",
            HparamsWarning,
            stacklevel=2,
        )
    else:
        sweep = sweep_layers(
            model,
            requests,
            layers=layers,
            covariance=covariance,
            contexts=contexts,
            target_options=_commonest("rome"),
            seed=seed,
            prepend_bos=prepend_bos,
            progress=progress,
        )
        last = best_layer(sweep)
        best = sweep.set_index("layer").loc[last]
        tried = "1 request" if best["n_requests"] == 1 else f"{int(best['n_requests'])} requests"
        how = (
            f"by a sweep over {', '.join(map(str, sweep['layer']))} with {tried} "
            f"(score {best['score']:.2f} at {last})"
        )
        if not best["score"] > 0:
            warnings.warn(
                f"suggest_hparams: no layer of {', '.join(map(str, sweep['layer']))} has a score above 0, so "
                f"that layer {last} is hardly more than a guess; try other layers or requests.",
                HparamsWarning,
                stacklevel=2,
            )
    run = _width(rows, n_layers) if width is None else width
    chosen = tuple(range(max(0, last - run + 1), last + 1))
    absent = [] if covariance is None else [layer for layer in chosen if layer not in covariance]
    if absent:
        named = ", ".join(map(str, absent))
        how += f", of which {named} lack second moments"
        warnings.warn(
            f"suggest_hparams: the covariance lacks layers {named} of {', '.join(map(str, chosen))}, which "
            f"are to be written; collect it with layers={list(chosen)} before you edit.",
            HparamsWarning,
            stacklevel=2,
        )
    others = ", ".join(row.model for row in rows)
    found = Hyperparameters(
        model=str(model.cfg.model_name),
        method=method,
        layers=chosen,
        source=f"suggested, not published: layers {how}; the rest from {others}",
        target_options=_commonest(method),
        mom2_weight=_scaled_weight(rows, d_mlp),
    )
    return Suggestion(found, sweep)


def _commonest(method: str) -> TargetOptions:
    """The commonest published value of each option of the target search."""
    published = [asdict(row.target_options) for row in all_hyperparameters()
                 if row.method == method and row.target_options]  # fmt: skip
    values: dict[str, Any] = {
        name: Counter(one[name] for one in published).most_common(1)[0][0] for name in published[0]
    }
    return TargetOptions(**values)


def _scaled_weight(rows: Sequence[Hyperparameters], d_mlp: int) -> float | None:
    widths = published_widths()
    shares = [row.mom2_weight / widths[row.model][1] for row in rows if row.mom2_weight is not None]
    return median(shares) * d_mlp if shares else None


def _width(rows: Sequence[Hyperparameters], n_layers: int) -> int:
    """Layers to write into: the median published share of the depth, no more than any published number."""
    depths = published_widths()
    share = median(len(row.layers) / depths[row.model][0] for row in rows)
    return min(max(1, round(share * n_layers)), max(len(row.layers) for row in rows))
