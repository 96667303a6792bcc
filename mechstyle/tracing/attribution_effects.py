"""First-order effects of all cells: a forward and a backward run of the base, a forward run of the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.errors import NonFiniteError
from mechstyle.models import HookedModel
from mechstyle.runs import Recording, record
from mechstyle.sites import Site
from mechstyle.tracing.answer import Question
from mechstyle.tracing.attribution_joint import Joint, joint_terms
from mechstyle.tracing.attribution_runs import Embedded, Run, States, gradients, run_embedded, upcast
from mechstyle.tracing.grid import window_layers
from mechstyle.tracing.kinds import TracedKind
from mechstyle.tracing.plan import Plan

__all__ = ["Estimate", "Recipe", "estimate"]


@dataclass(frozen=True)
class Recipe:
    """What is estimated, and how.

    Attributes:
        shares: where on the way from the base's embeddings to the source's gradients are taken; their mean
            counts. (0.0,) is the base itself.
        tokens: the cells' tokens, from the first at which the sides differ to the end of the prompt.
        rows: most rows of one run.
    """

    plan: Plan
    shares: tuple[float, ...]
    tokens: range
    rows: int

    @property
    def at_base(self) -> bool:
        """Whether gradients are those of the base run itself."""
        return self.shares == (0.0,)

    @property
    def noising(self) -> bool:
        """Whether the clean side is the base."""
        return self.plan.direction == "noising"

    @property
    def sites(self) -> list[Site]:
        """Where states and gradients are read."""
        exchange = self.plan.exchange(first=self.tokens.start, n_last=1)
        return list(dict.fromkeys((*exchange.put, *exchange.held)))

    def spans(self, kind: TracedKind) -> list[range] | None:
        """By layer, the layers whose outputs a cell sets besides its own one; None where no cell does."""
        n_layers = self.plan.n_layers
        if kind.held is not None:
            return [range(layer + 1, n_layers) for layer in range(n_layers)] if n_layers > 1 else None
        spans = [window_layers(layer, self.plan.window, n_layers) for layer in range(n_layers)]
        return spans if kind.windowed and max(map(len, spans)) > 1 else None


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores of both sides, and the estimated effect of every cell, by kind and over its axes.

    Attributes:
        knows: whether the clean run's most probable tokens are the answer.
    """

    clean: float
    corrupted: Float[NDArray[np.float64], " sample"]
    knows: bool
    effects: dict[str, Float[NDArray[np.float64], "sample token *rest"]]


def estimate(
    model: HookedModel,
    question: Question,
    clean: Embedded,
    corrupted: Embedded,
    recipe: Recipe,
    *,
    advance: Callable[[int], None],
) -> Estimate:
    """Estimate the effects of all cells for one question.

    Args:
        advance: called with the number of samples whenever some are done.

    Raises:
        NonFiniteError: the model's logits on the clean prompt, or the gradients, are not finite.
        WorkError: a score is not finite.
    """
    runs = _Runs(model, question, recipe)
    run_clean = runs.of(clean, grad=recipe.at_base and recipe.noising)
    if not bool(torch.isfinite(run_clean.logits).all()):
        raise NonFiniteError(
            "model: its logits on the clean prompt are NaN or infinite. Load a model with finite weights."
        )
    runs = _Runs(model, question.given(run_clean.logits), recipe)
    of_clean = runs.slopes(run_clean) if recipe.at_base and recipe.noising else None
    scores: list[NDArray[np.float64]] = []
    found: dict[str, list[NDArray[np.float64]]] = {kind.name: [] for kind in recipe.plan.kinds}
    draws = max(1, recipe.rows // len(recipe.shares))
    for first in range(0, corrupted.n_rows, draws):
        some = corrupted.rows(slice(first, first + draws))
        run = runs.of(some, grad=recipe.at_base and not recipe.noising)
        scores.append(runs.question.score(run.logits))
        base, source = (clean, some) if recipe.noising else (some, clean)
        states = (run_clean.states, run.states) if recipe.noising else (run.states, run_clean.states)
        if of_clean is not None:
            slopes: States = of_clean
        else:
            slopes = runs.slopes(run) if recipe.at_base else runs.mean_slopes(base, source)
        ends = _Ends(model, recipe, base, *states, slopes)
        for kind in recipe.plan.kinds:
            found[kind.name].append(ends.effects(kind).double().cpu().numpy())
        advance(some.n_rows)
    effects = {name: np.concatenate(parts) for name, parts in found.items()}
    if not all(np.isfinite(values).all() for values in effects.values()):
        raise NonFiniteError("model: its gradients are NaN or infinite. Load it with a wider dtype.")
    return Estimate(
        float(runs.question.score(run_clean.logits, run="clean")[0]),
        np.concatenate(scores),
        runs.question.greedy(run_clean.logits),
        effects,
    )


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of one question."""

    model: HookedModel
    question: Question
    recipe: Recipe

    def of(self, side: Embedded, *, grad: bool) -> Run:
        return run_embedded(
            self.model,
            side,
            self.recipe.sites,
            tokens=self.recipe.tokens,
            n_answer=self.question.n_answer,
            grad=grad,
        )

    def slopes(self, run: Run) -> dict[Site, Tensor]:
        return gradients(run, self.question.score_tensor)

    def mean_slopes(self, base: Embedded, source: Embedded) -> dict[Site, Tensor]:
        """Mean over the points of the straight line between the sides' embeddings, for each row."""
        rows, shares = max(base.n_rows, source.n_rows), self.recipe.shares
        at_once = max(1, self.recipe.rows // rows)
        total: dict[Site, Tensor] = {}
        for first in range(0, len(shares), at_once):
            points = base.towards(source, shares[first : first + at_once])
            for site, slope in self.slopes(self.of(points, grad=True)).items():
                summed = upcast(slope).unflatten(0, (-1, rows)).sum(0)
                total[site] = total[site] + summed if site in total else summed
        return {site: summed / len(shares) for site, summed in total.items()}


@dataclass(frozen=True, eq=False)
class _Ends:
    """The states of both sides and the gradients, for some samples."""

    model: HookedModel
    recipe: Recipe
    base_side: Embedded
    base: States
    source: States
    slopes: States

    @cached_property
    def recording(self) -> Recording | None:
        """The base run, recorded; None where runs are not resumed."""
        if self.recipe.plan.engine != "resume":
            return None
        return record(self.model, self.base_side.row_ids, hooks=[self.base_side.hook])

    def effects(self, kind: TracedKind) -> Float[Tensor, "row token *rest"]:
        """Of every cell of a kind."""
        spans = self.recipe.spans(kind)
        if spans is None:
            return self._alone(kind)
        put = self.source if kind.held is None else self.base
        site = kind.held or kind.site
        joint = Joint(
            self.base_side,
            site,
            {layer: put[Site(layer, site)] for span in spans for layer in span},
            {layer: self.slopes[Site(layer, site)] for span in spans for layer in span},
            spans,
            None
            if kind.held is None
            else [self.source[Site(layer, kind.site)] for layer in range(len(spans))],
            self.recipe.tokens,
            self.recipe.rows,
        )
        terms = joint_terms(self.model, joint, self.recording)
        return terms if kind.held is None else terms + self._alone(kind)

    def _alone(self, kind: TracedKind) -> Tensor:
        """Of putting each state in alone."""
        terms = [self._term(Site(layer, kind.site), kind) for layer in self.recipe.plan.layers(kind)]
        return terms[0] if kind.one_layer else torch.stack(terms, dim=2)

    def _term(self, site: Site, kind: TracedKind) -> Float[Tensor, "row token *index"]:
        parts = (upcast(self.source[site]) - upcast(self.base[site])) * upcast(self.slopes[site])
        numbers = kind.index is not None and parts.ndim == 3  # each part is a number, not a vector
        return parts if numbers else parts.sum(-1)
