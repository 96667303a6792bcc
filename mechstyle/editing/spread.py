"""One residual written by several layers, each taking its share of what is still missing (MEMIT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.application import EditHandle, apply_edits
from mechstyle.editing.keys import subject_states
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.sites import Site
from mechstyle.solve import closed_form_update

__all__ = ["LayerWrite", "write_in_layers"]


@dataclass(frozen=True, eq=False)
class LayerWrite:
    """What one layer contributes.

    Attributes:
        missing: mean over requests of the norm of what was still missing before this layer was written.
        jitter, gram_jitter: as ``LowRank``.
    """

    edit: WeightEdit
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
    with the layers below already written, and so are the keys. The model is as before when this returns.

    Args:
        wanted: what is to leave the last of the layers at each subject's last token.
        layers: in rising order.
        ridge: of the closed form.
        weights: of each context in a key's mean; they add up to 1.

    Meng et al. 2023 (MEMIT), section 4.3.

    >>> writes = write_in_layers(model, facts, wanted, layers=[3, 4, 5], ...)  # doctest: +SKIP
    """
    out = Site(layers[-1], "resid")
    share = torch.tensor(weights, dtype=torch.float64)
    handles: list[EditHandle] = []
    writes: list[LayerWrite] = []
    try:
        for place, layer in enumerate(layers):
            now = subject_states(model, facts, out, prepend_bos=prepend_bos)[:, 0].double()
            missing = wanted.to(now) - now
            keys = subject_states(
                model, facts, Site(layer, "key"), contexts=contexts, prepend_bos=prepend_bos
            ).double()
            mean = torch.einsum("rcd,c->rd", keys, share.to(keys.device))
            residual = missing / (len(layers) - place)
            update = closed_form_update(mean, residual, moments[layer].to(keys.device), ridge)
            edit = WeightEdit(Site(layer, "key").parameter, update.left, update.right)
            size = float(torch.linalg.vector_norm(missing, dim=-1).mean())
            writes.append(LayerWrite(edit, size, update.jitter, update.gram_jitter))
            if layer != layers[-1]:
                handles.append(apply_edits(model, [edit]))
    finally:
        for handle in reversed(handles):
            handle.undo()
    return writes
