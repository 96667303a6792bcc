"""One residual written by several layers, each taking its share of what is still missing (MEMIT)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.editing.application import active_edits, apply_edits
from mechstyle.editing.keys import BARE, last_subject_index, subject_states
from mechstyle.editing.layer_solves import LayerRows, LayerSolve
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.sites import Site
from mechstyle.tokens import encode_fact

__all__ = ["LayerWrite", "apart", "shared_keys", "write_in_layers"]

_FACTS_AT_ONCE: Final = 256
"""Facts whose keys in all contexts are in memory together; it does not change the result."""


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
    facts = [one[0] for one in phrased]
    group = shared_keys(model, phrased, prepend_bos=prepend_bos)
    n_written = int(group.max()) + 1
    group = torch.cat([group, torch.arange(len(keep)) + n_written])
    out, before = Site(layers[-1], "resid"), None
    writes: list[LayerWrite] = []
    with ExitStack() as undo:
        for place, layer in enumerate(layers):
            now = subject_states(model, [*facts, *keep], out, prepend_bos=prepend_bos)[:, 0].double()
            before = now if before is None else before
            missing = before - now
            missing[: len(facts)] += deltas.to(now)
            site = Site(layer, "key")
            keys = _mean_keys(model, phrased, site, contexts, weights, prepend_bos=prepend_bos)
            bare = _bare_keys(model, [*facts, *keep] if read_bare else keep, site, prepend_bos=prepend_bos)
            rows = _merged(torch.cat([keys, bare[len(bare) - len(keep) :].to(keys)]), group)
            read = _merged(bare, group) if read_bare else None
            residual = _merged(missing / (len(layers) - place), group)
            update = solve(LayerRows(layer, rows, residual, read, _written(model, site.parameter, rows)))
            edit = WeightEdit(site.parameter, update.left, update.right, rows)
            size = float(torch.linalg.vector_norm(missing[: len(facts)], dim=-1).mean())
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
    numbers: dict[tuple[tuple[int, ...], ...], int] = {}
    group = [
        numbers.setdefault(tuple(_begin(model, fact, prepend_bos) for fact in one), len(numbers))
        for one in phrased
    ]
    return torch.tensor(group, dtype=torch.long)


def _begin(model: HookedModel, fact: Fact, prepend_bos: bool | None) -> tuple[int, ...]:
    """The tokens that a key depends on."""
    encoded = encode_fact(model, fact, prepend_bos=prepend_bos)
    return tuple(encoded.ids[: last_subject_index(encoded) + 1].tolist())


def apart(
    model: HookedModel, keep: Sequence[Fact], phrased: Sequence[Sequence[Fact]], *, prepend_bos: bool | None
) -> tuple[Fact, ...]:
    """The facts that have a key of their own beside those of the requests, each key once.

    >>> apart(model, [Fact("{} is", "Miles", " b")], [[fact]], prepend_bos=None)  # doctest: +SKIP
    """
    seen = {_begin(model, fact, prepend_bos) for one in phrased for fact in one}
    found = []
    for fact in keep:
        begin = _begin(model, fact, prepend_bos)
        if begin not in seen:
            seen.add(begin)
            found.append(fact)
    return tuple(found)


def _merged(rows: Float[Tensor, "fact d"], group: Int[Tensor, " fact"]) -> Float[Tensor, "key d"]:
    """One row for each key: ``√n`` times the mean of its ``n`` rows.

    With keys and residuals both so, ``KᵀK`` and ``KᵀR`` are those of all rows, and ridge 0 writes the mean.
    """
    count = torch.bincount(group)
    total = torch.zeros(len(count), rows.shape[1], dtype=rows.dtype, device=rows.device)
    total = total.index_add(0, group.to(rows.device), rows)
    merged: Tensor = total / count.to(rows).sqrt()[:, None]
    return merged


def _mean_keys(
    model: HookedModel,
    phrased: Sequence[Sequence[Fact]],
    site: Site,
    contexts: Sequence[str],
    weights: Sequence[float],
    *,
    prepend_bos: bool | None,
) -> Float[Tensor, "request d_mlp"]:
    """Each request's key, averaged over its phrasings and contexts, in fp64."""
    flat = [fact for one in phrased for fact in one]
    of = torch.tensor([number for number, one in enumerate(phrased) for _ in one], dtype=torch.long)
    means = [torch.zeros(0, int(model.cfg.d_mlp), dtype=torch.float64)]
    for first in range(0, len(flat), _FACTS_AT_ONCE):
        some = flat[first : first + _FACTS_AT_ONCE]
        keys = subject_states(model, some, site, contexts=contexts, prepend_bos=prepend_bos).double()
        means.append(torch.einsum("fcd,c->fd", keys, keys.new_tensor(weights)))
    every = torch.cat([mean.to(means[-1].device) for mean in means])
    total = torch.zeros(len(phrased), every.shape[1], dtype=every.dtype, device=every.device)
    counts: Tensor = torch.bincount(of, minlength=len(phrased)).to(every)
    averaged: Tensor = total.index_add(0, of.to(every.device), every) / counts[:, None]
    return averaged


def _bare_keys(
    model: HookedModel, facts: Sequence[Fact], site: Site, *, prepend_bos: bool | None
) -> Float[Tensor, "fact d_mlp"]:
    return _mean_keys(model, [(fact,) for fact in facts], site, (BARE,), (1.0,), prepend_bos=prepend_bos)


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
