"""One residual written by several layers, each taking its share of what is still missing (MEMIT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.editing.application import apply_edits
from mechstyle.editing.keys import last_subject_index, subject_states
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.sites import Site
from mechstyle.solve import closed_form_update
from mechstyle.tokens import encode_fact

__all__ = ["LayerWrite", "shared_keys", "write_in_layers"]

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
    facts: Sequence[Fact],
    wanted: Float[Tensor, "request d_model"],
    *,
    layers: Sequence[int],
    moments: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    ridge: float,
    contexts: Sequence[str],
    weights: Sequence[float],
    prepend_bos: bool | None,
) -> list[LayerWrite]:
    """Write, layer by layer from below, what brings the last layer's output at each subject to ``wanted``.

    Layer ``i`` of ``n`` writes ``(wanted - h_now) / (n - i)``, where ``h_now`` is read on the bare prompt
    with the layers below already written, and so are the keys. Facts that share a key are written as one,
    with the mean of their residuals. The model is as before when this returns.

    Args:
        wanted: what is to leave the last of the layers at each subject's last token.
        layers: in rising order.
        ridge: of the closed form.
        contexts: templates around the prompts in which keys are read.
        weights: of each context in a key's mean; they add up to 1.

    Raises:
        InputError: a layer's second moment is not positive semi-definite.
        WorkError: the weights overflow the model's dtype.

    Meng et al. 2023 (MEMIT), section 4.3.

    >>> writes = write_in_layers(model, facts, wanted, layers=[3, 4, 5], ...)  # doctest: +SKIP
    """
    out, group = Site(layers[-1], "resid"), shared_keys(model, facts, prepend_bos=prepend_bos)
    writes: list[LayerWrite] = []
    with ExitStack() as undo:
        for place, layer in enumerate(layers):
            now = subject_states(model, facts, out, prepend_bos=prepend_bos)[:, 0].double()
            missing = wanted.to(now) - now
            site = Site(layer, "key")
            keys = _mean_keys(model, facts, site, contexts, weights, prepend_bos=prepend_bos)
            update = closed_form_update(
                _merged(keys, group),
                _merged(missing / (len(layers) - place), group),
                moments[layer].to(keys.device),
                ridge,
            )
            edit = WeightEdit(site.parameter, update.left, update.right)
            size = float(torch.linalg.vector_norm(missing, dim=-1).mean())
            writes.append(LayerWrite(edit, int(group.max()) + 1, size, update.jitter, update.gram_jitter))
            if layer != layers[-1]:
                undo.callback(apply_edits(model, [edit]).undo)
    return writes


def shared_keys(
    model: HookedModel, facts: Sequence[Fact], *, prepend_bos: bool | None = None
) -> Int[Tensor, " fact"]:
    """Number each fact's key from 0: facts whose prompts are equal up to the subject's last token share one.

    In exact arithmetic such keys are the same, so no change of ``W_out`` can tell the facts apart; in fp32
    they differ by rounding, and an exact write would blow that difference up.

    Raises:
        TextError: a prompt cannot be tokenised.

    >>> shared_keys(model, [Fact("{} plays", "Miles", " a"), Fact("{} is", "Miles", " b")])  # doctest: +SKIP
    tensor([0, 0])
    """
    numbers: dict[tuple[int, ...], int] = {}
    group = []
    for fact in facts:
        encoded = encode_fact(model, fact, prepend_bos=prepend_bos)
        begin = tuple(encoded.ids[: last_subject_index(encoded) + 1].tolist())
        group.append(numbers.setdefault(begin, len(numbers)))
    return torch.tensor(group, dtype=torch.long)


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
    facts: Sequence[Fact],
    site: Site,
    contexts: Sequence[str],
    weights: Sequence[float],
    *,
    prepend_bos: bool | None,
) -> Float[Tensor, "fact d_mlp"]:
    """Each fact's key, averaged over contexts, in fp64."""
    means = []
    for first in range(0, len(facts), _FACTS_AT_ONCE):
        some = facts[first : first + _FACTS_AT_ONCE]
        keys = subject_states(model, some, site, contexts=contexts, prepend_bos=prepend_bos).double()
        means.append(torch.einsum("fcd,c->fd", keys, keys.new_tensor(weights)))
    return torch.cat(means)
