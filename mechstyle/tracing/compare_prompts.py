"""Do similar prompts trace alike? Distances between traces against distances between their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, fingerprint
from mechstyle.tracing.aggregate import band
from mechstyle.tracing.aligned import Aligned, align
from mechstyle.tracing.mantel import FEWEST, mantel_each
from mechstyle.tracing.prompt_distances import model_distances, relation_of, text_distances
from mechstyle.tracing.trace import Trace

__all__ = ["Measure", "PromptComparison", "compare_prompts", "trace_distances"]

Measure = Literal["correlation", "rms"]
Distances = Float[NDArray[np.float64], "fact fact"]
FLAT = 1e-18
"""Variance below which the cells of a trace count as all the same."""


@dataclass(frozen=True, eq=False)
class PromptComparison:
    """Traces of many facts, compared with each other and with their prompts.

    Attributes:
        facts: the facts, in the order of all matrices.
        distances: between the traces of each two facts.
        prompts: by name, distances between the prompts of each two facts.
        mantel: a row a distance between prompts: its rank correlation r with the distance between traces, the
            exact permutation p that similar prompts trace alike, permutations and pairs.
        groups: mean distance between traces of one fact in two templates, of two facts of a relation in the
            same template or another, and of facts of two relations; with intervals over facts.
        order: of the facts in a clustered map: leaves of the tree of average linkage.
    """

    facts: tuple[Fact, ...]
    distances: Distances
    prompts: Mapping[str, Distances]
    mantel: pd.DataFrame
    groups: pd.DataFrame
    order: tuple[int, ...]

    @property
    def pairs(self) -> pd.DataFrame:
        """A row a pair of facts: first, second, trace, and each distance between their prompts."""
        rows, columns = np.triu_indices(len(self.facts), 1)
        table = {"first": rows, "second": columns, "trace": self.distances[rows, columns]}
        return pd.DataFrame(
            {**table, **{name: values[rows, columns] for name, values in self.prompts.items()}}
        )


def compare_prompts(
    traces: Iterable[Trace],
    *,
    model: HookedModel | None = None,
    layer: int | None = None,
    kinds: Sequence[str] | None = None,
    measure: Measure = "correlation",
    permutations: int = 9999,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PromptComparison:
    """Compare many facts of one model: how far their traces are apart, and how far their prompts.

    Traces are aligned by token role and layer. Distances between prompts are those of `text_distances`, and
    with a model those of `model_distances`; each is tested against the distance between traces.

    Args:
        traces: of facts, by one model with the same settings, such as a `TraceSet`.
        model: the traced model, for distances between embeddings and hidden states.
        layer: of the hidden state; None is the middle one.
        kinds: compare these kinds only; None means all of the traces.
        measure: of the distance between traces: "correlation" is one minus Pearson's r over the cells, which
            compares shapes; "rms" the root mean square difference, in the metric's units.
        permutations: of the test; p is at least 1 / (permutations + 1).

    Raises:
        InputError: fewer than four traces, not of facts, or traces that cannot be compared.
        ModelError: the traces are of another model.
        RangeError: a number is out of range.

    Example:
        >>> found = compare_prompts(traces, model=model)
        >>> found.mantel.loc["relation", ["r", "p"]]
    """
    if measure not in get_args(Measure):
        raise InputError(f"measure: expected one of {', '.join(get_args(Measure))}, got {measure!r}.")
    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    facts: list[Fact] = []
    settings: list[tuple[str, bool | None]] = []
    aligned = align(_reading(traces, facts, settings), kinds=kinds, average=True)
    if len(facts) < FEWEST:
        raise InputError(f"traces: expected at least {FEWEST} to compare, got {len(facts)}.")
    traced, bos = settings[0]
    prompts = text_distances(facts)
    if model is not None:
        if fingerprint(model) != traced:
            raise ModelError(
                f"model: expected the traced one, fingerprint {traced[:12]}, got {fingerprint(model)[:12]}."
            )
        prompts |= model_distances(model, facts, layer=layer, prepend_bos=bos)
    distances = trace_distances(aligned, measure=measure)
    tests = mantel_each(distances, prompts, permutations=permutations, seed=seed)
    table = pd.DataFrame(list(tests.values()), index=pd.Index(tests, name="distance"))
    return PromptComparison(
        facts=tuple(facts),
        distances=distances,
        prompts=prompts,
        mantel=table.assign(n_pairs=len(facts) * (len(facts) - 1) // 2),
        groups=_groups(facts, distances, level=level, resamples=resamples, seed=seed),
        order=_clustered(distances),
    )


def trace_distances(aligned: Aligned, *, measure: Measure = "correlation") -> Distances:
    """Distance between each two traces, over the cells that both have.

    Roles at which no trace has an effect, such as those before the subject, are left out.

    Raises:
        InputError: two traces have no role in common, or nothing has an effect.

    Example:
        >>> trace_distances(align(traces, average=True)).shape
        (100, 100)
    """
    means = {role: np.stack([one.mean(0) for one in values]) for role, values in aligned.effects.items()}
    roles = {role: values for role, values in means.items() if values.any()}
    if not roles:
        raise InputError("traces: expected effects to compare, but all are 0.")
    n_cells = len(aligned.cells)
    values = np.zeros((aligned.n_facts, len(roles) * n_cells))
    there = np.zeros_like(values)
    for number, (role, effects) in enumerate(roles.items()):
        columns = slice(number * n_cells, (number + 1) * n_cells)
        values[list(aligned.members[role]), columns] = effects
        there[list(aligned.members[role]), columns] = 1.0
    # Sums over the cells that both have, as products of matrices; centred, so that little is cancelled.
    values = there * (values - values.sum() / there.sum())
    count, cross = there @ there.T, values @ values.T
    if not count.all():
        first, second = np.argwhere(count == 0)[0]
        raise InputError(f"traces: numbers {first} and {second} have no token role in common.")
    total, square = values @ there.T, np.square(values) @ there.T
    if measure == "rms":
        found = np.sqrt(np.maximum(square + square.T - 2 * cross, 0) / count)
    else:
        variance = np.maximum(square / count - np.square(total / count), 0)
        product = np.sqrt(variance * variance.T)
        covariance = cross / count - (total / count) * (total / count).T
        together = np.divide(covariance, product, out=np.zeros_like(cross), where=product > FLAT)
        found = np.clip(1 - together, 0, 2)
    np.fill_diagonal(found, 0.0)
    distances: Distances = (found + found.T) / 2
    return distances


def _reading(
    traces: Iterable[Trace], facts: list[Fact], settings: list[tuple[str, bool | None]]
) -> Iterator[Trace]:
    """The traces as they come; their facts and settings are noted on the way."""
    for index, trace in enumerate(traces):
        if isinstance(trace, Trace):
            own = trace.settings
            if not own.get("fact"):
                raise InputError(f"traces: expected traces of facts, but number {index} is none.")
            facts.append(Fact.from_dict(own["fact"]))
            settings.append((trace.provenance["fingerprint"], own.get("prepend_bos")))
        yield trace


def _groups(
    facts: Sequence[Fact], distances: Distances, *, level: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Mean distance between traces of facts that share a subject, a template, a relation or nothing."""
    named = ((relation_of(fact), fact.template, fact.subject) for fact in facts)
    columns = (np.array(names) for names in zip(*named, strict=True))
    relation, template, subject = (names[:, None] == names for names in columns)
    masks = {
        "same fact, other template": relation & subject & ~template,
        "same relation, same template": relation & template & ~subject,
        "same relation, other template": relation & ~template & ~subject,
        "other relation": ~relation,
    }
    share = np.full(len(facts), 1 / len(facts))
    counts = np.random.default_rng(seed).multinomial(len(facts), share, size=resamples).astype(float)
    rows = {}
    for name, mask in masks.items():
        if not mask.any():
            continue
        sums = ((counts @ (distances * mask)) * counts).sum(1)
        pairs = ((counts @ mask.astype(float)) * counts).sum(1)
        low, high = band((sums / np.where(pairs == 0, np.nan, pairs))[pairs > 0], level)
        rows[name] = {
            "mean": float(distances[mask].mean()),
            "low": float(low),
            "high": float(high),
            "n_pairs": int(mask.sum()) // 2,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("pairs")


def _clustered(distances: Distances) -> tuple[int, ...]:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distances, checks=False), "average")
    return tuple(int(leaf) for leaf in leaves_list(tree))
