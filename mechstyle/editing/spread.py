"""One residual written by several layers, each taking its share of what is still missing (MEMIT)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.editing.application import active_edits, apply_edits
from mechstyle.editing.keys import BARE, last_subject_index
from mechstyle.editing.layer_solves import LayerRows, LayerSolve
from mechstyle.editing.subject_rows import Share, SubjectRows
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.sites import Site
from mechstyle.tokens import EncodedPrompt, encode_fact

__all__ = ["LayerWrite", "apart", "shared_keys", "write_in_layers"]


@dataclass(frozen=True, eq=False)
class LayerWrite:
    """What one layer contributes.

    Attributes:
        keys: number of different keys that were written, at most one for each request.
        missing: mean over requests of the norm of what was still missing before this layer was written.
        jitter, gram_jitter: as ``LowRank``.
    """

    edit: WeightEdit
    keys: int
    missing: float
    jitter: float
    gram_jitter: float


def write_in_layers(
    model: HookedModel,
    phrased: Sequence[Sequence[Fact]],
    deltas: Float[Tensor, "request d_model"],
    *,
    layers: Sequence[int],
    solve: LayerSolve,
    contexts: Sequence[str],
    weights: Sequence[float],
    keep: Sequence[Fact] = (),
    read_bare: bool = False,
    prepend_bos: bool | None,
) -> list[LayerWrite]:
    """Write, layer by layer from below, what changes the last layer's output at each subject by its delta.

    Layer ``i`` of ``n`` writes ``1 / (n - i)`` of what is still missing, which is read on the bare prompt
    with the layers below already written, and so are the keys. Requests that share a key are written as one,
    with the mean of their residuals. The model is as before when this returns.

    Args:
        phrased: each request's fact in all its phrasings; its key is their mean, and what is missing is read
            in the first.
        deltas: the wanted changes of what leaves the last of the layers at each subject's last token.
        layers: in rising order.
        contexts: templates around the prompts in which keys are read.
        weights: of each context in a key's mean; they add up to 1.
        keep: facts whose output at the subject shall stay as it is, with keys of their own (``apart``); they
            are read in the bare prompt.
        read_bare: the residual is to hold at the bare prompt's key, while the mean key gives the direction.

    Raises:
        InputError: a layer's second moment is not positive semi-definite.
        WorkError: the weights overflow the model's dtype.

    Meng et al. 2023 (MEMIT), section 4.3.

    >>> writes = write_in_layers(model, [request.phrased], deltas, layers=[3, 4], ...)  # doctest: +SKIP
    """
    group = shared_keys(model, phrased, prepend_bos=prepend_bos)
    n_written = int(group.max()) + 1
    group = torch.cat([group, torch.arange(len(keep)) + n_written])
    encoded, shares, bare = _rows(model, phrased, keep, contexts, weights, prepend_bos=prepend_bos)
    n_means = len(phrased) + len(keep)
    rows = SubjectRows(
        model,
        encoded,
        [*shares, *((row, n_means + mean, 1.0) for mean, row in enumerate(bare) if read_bare)],
        n_means=n_means * (2 if read_bare else 1),
        layers=layers,
    )
    before: Tensor | None = None
    writes: list[LayerWrite] = []
    with ExitStack() as undo:
        for place, layer in enumerate(layers):
            rows.go_to(layer)
            now = rows.outputs(bare)
            before = now if before is None else before
            missing = before - now
            missing[: len(phrased)] += deltas.to(now)
            means = rows.mean_keys()
            keys = _merged(means[:n_means], group)
            read = _merged(means[n_means:], group) if read_bare else None
            residual = _merged(missing / (len(layers) - place), group)
            name = Site(layer, "key").parameter
            update = solve(LayerRows(layer, keys, residual, read, partial(_written, model, name, keys)))
            edit = WeightEdit(name, update.left, update.right, keys)
            size = float(torch.linalg.vector_norm(missing[: len(phrased)], dim=-1).mean())
            writes.append(LayerWrite(edit, n_written, size, update.jitter, update.gram_jitter))
            if layer != layers[-1]:
                undo.callback(apply_edits(model, [edit]).undo)
    return writes


def shared_keys(
    model: HookedModel, phrased: Sequence[Sequence[Fact]], *, prepend_bos: bool | None = None
) -> Int[Tensor, " request"]:
    """Number each request's key from 0: prompts that are equal up to the subject's last token share one.

    In exact arithmetic such keys are the same, so no change of ``W_out`` can tell the requests apart; in fp32
    they differ by rounding, and an exact write would blow that difference up.

    Raises:
        TextError: a prompt cannot be tokenised.

    >>> one, other = Fact("{} plays", "Miles", " a"), Fact("{} is", "Miles", " b")
    >>> shared_keys(model, [[one], [other]])  # doctest: +SKIP
    tensor([0, 0])
    """
    numbers: dict[frozenset[tuple[tuple[int, ...], Fraction]], int] = {}
    group = []
    for one in phrased:
        # The key is the mean over phrasings: neither their order nor a common multiple of them matters.
        begins = Counter(_begin(model, fact, prepend_bos) for fact in one)
        mean = frozenset((begin, Fraction(count, len(one))) for begin, count in begins.items())
        group.append(numbers.setdefault(mean, len(numbers)))
    return torch.tensor(group, dtype=torch.long)


def _begin(model: HookedModel, fact: Fact, prepend_bos: bool | None) -> tuple[int, ...]:
    """The tokens that a key depends on."""
    encoded = encode_fact(model, fact, prepend_bos=prepend_bos)
    return tuple(encoded.ids[: last_subject_index(encoded) + 1].tolist())


def apart(
    model: HookedModel, keep: Sequence[Fact], phrased: Sequence[Sequence[Fact]], *, prepend_bos: bool | None
) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """The facts with keys of their own beside those of the requests, each key once; and those without.

    >>> kept, lost = apart(model, keep, [request.phrased], prepend_bos=None)  # doctest: +SKIP
    """
    if not keep:
        return (), ()
    changed = {_begin(model, fact, prepend_bos) for one in phrased for fact in one}
    begins = [_begin(model, fact, prepend_bos) for fact in keep]
    own = {begin: fact for begin, fact in zip(begins, keep, strict=True) if begin not in changed}
    lost = tuple(fact for begin, fact in zip(begins, keep, strict=True) if begin in changed)
    return tuple(own.values()), lost


def _merged(rows: Float[Tensor, "fact d"], group: Int[Tensor, " fact"]) -> Float[Tensor, "key d"]:
    """One row for each key: ``√n`` times the mean of its ``n`` rows.

    With keys and residuals both so, ``KᵀK`` and ``KᵀR`` are those of all rows, and ridge 0 writes the mean.
    """
    count = torch.bincount(group)
    total = torch.zeros(len(count), rows.shape[1], dtype=rows.dtype, device=rows.device)
    total = total.index_add(0, group.to(rows.device), rows)
    merged: Tensor = total / count.to(rows).sqrt()[:, None]
    return merged


def _rows(
    model: HookedModel,
    phrased: Sequence[Sequence[Fact]],
    keep: Sequence[Fact],
    contexts: Sequence[str],
    weights: Sequence[float],
    *,
    prepend_bos: bool | None,
) -> tuple[list[EncodedPrompt], list[Share], list[int]]:
    """Every prompt that is read, what it counts in the mean keys, and the bare rows of requests and facts."""
    encoded: list[EncodedPrompt] = []
    shares: list[Share] = []
    bare: list[int] = []
    for mean, facts in enumerate([*phrased, *((fact,) for fact in keep)]):
        kept = mean >= len(phrased)
        bare.append(len(encoded) + (0 if kept else list(contexts).index(BARE)))
        for fact in facts:
            for context, weight in [(BARE, 1.0)] if kept else zip(contexts, weights, strict=True):
                shares.append((len(encoded), mean, weight / len(facts)))
                encoded.append(encode_fact(model, fact, template=context, prepend_bos=prepend_bos))
    return encoded, shares, bare


def _written(
    model: HookedModel, name: str, like: Float[Tensor, "key d_mlp"]
) -> Float[Tensor, "earlier d_mlp"]:
    """The keys that the model's active edits wrote at, in one parameter."""
    found = [
        edit.keys.to(like)
        for handle in active_edits(model)
        for edit in handle.edits
        if edit.parameter == name and edit.keys is not None
    ]
    return torch.cat(found) if found else like[:0]
