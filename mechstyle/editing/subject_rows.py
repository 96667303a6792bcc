"""Prompts up to their subjects' last tokens, read layer by layer while the layers below are being written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.blocks import may_resume
from mechstyle.editing.keys import last_subject_index
from mechstyle.models import HookedModel
from mechstyle.runs import capture, default_memory, entering, through
from mechstyle.sites import Site
from mechstyle.tokens import EncodedPrompt

__all__ = ["Share", "SubjectRows"]

Share = tuple[int, int, float]
"""A row, the mean that it counts in, and its weight there."""
_AT_ONCE: Final = 64
"""Rows in one run; it does not change the result."""


@dataclass(eq=False)
class _Chunk:
    """Rows of similar length; ``residual`` is what enters the present layer, where it is kept."""

    ids: Int[Tensor, "row pos"]
    last: Int[Tensor, " row"]
    rows: list[int]
    residual: Tensor | None = None


class SubjectRows:
    """Rows whose states at the last position are read, from the first written layer to the last.

    Where the model's blocks can be run one by one and the rows fit into the default memory, what enters the
    present layer is kept, and nothing below it is run again. Otherwise every reading is a run of its own.

    Args:
        encoded: a prompt a row, encoded with its subject.
        shares: which rows make up which mean key; weights of one mean add up to 1.
        layers: that are written, in rising order.
    """

    def __init__(
        self,
        model: HookedModel,
        encoded: Sequence[EncodedPrompt],
        shares: Sequence[Share],
        *,
        n_means: int,
        layers: Sequence[int],
    ) -> None:
        self._model, self._top, self._n_means = model, layers[-1], n_means
        self._layer = layers[0]
        last = [last_subject_index(one) for one in encoded]
        # Nothing behind the subject can change its states: it is not run. Rows of similar length go together.
        order = sorted(range(len(encoded)), key=last.__getitem__)
        self._chunks = [
            _Chunk(
                pad_sequence([encoded[row].ids[: last[row] + 1] for row in rows], batch_first=True),
                torch.tensor([last[row] for row in rows]),
                rows,
            )
            for rows in (order[first : first + _AT_ONCE] for first in range(0, len(order), _AT_ONCE))
        ]
        place = {
            row: (number, at) for number, one in enumerate(self._chunks) for at, row in enumerate(one.rows)
        }
        self._shares: list[list[Share]] = [[] for _ in self._chunks]
        for row, mean, weight in shares:
            number, at = place[row]
            self._shares[number].append((at, mean, weight))
        size = next(iter(model.named_parameters()))[1].element_size()
        kept = sum(one.ids.numel() for one in self._chunks) * int(model.cfg.d_model) * size
        if may_resume(model) and kept <= default_memory(model):
            for one in self._chunks:
                one.residual = entering(model, one.ids, self._layer)

    def mean_keys(self) -> Float[Tensor, "mean d_mlp"]:
        """The means of the keys of the present layer, in fp64."""
        site = Site(self._layer, "key")
        d_mlp = int(self._model.cfg.d_mlp)
        total = torch.zeros(self._n_means, d_mlp, dtype=torch.float64, device=self._model.cfg.device)
        for own, one in zip(self._shares, self._chunks, strict=True):
            if one.residual is None:
                keys = capture(self._model, one.ids, [site])[site]
            else:
                keys = through(self._model, one.residual, self._layer, read=[site])[1][site]
            at, mean, weights = (list(part) for part in zip(*own, strict=True))
            chosen = keys[at, one.last[at].to(keys.device)].double()
            chosen = chosen * chosen.new_tensor(weights)[:, None]
            total = total.index_add(0, torch.tensor(mean, device=total.device), chosen.to(total.device))
        return total

    def outputs(self, rows: Sequence[int]) -> Float[Tensor, "row d_model"]:
        """What leaves the last layer at some of the rows' last positions, as the weights are now, in fp64."""
        site, found, asked = Site(self._top, "resid"), dict[int, Tensor](), set(rows)
        for one in self._chunks:
            at = torch.tensor([place for place, row in enumerate(one.rows) if row in asked], dtype=torch.long)
            if not len(at):
                continue
            if one.residual is None:
                states = capture(self._model, one.ids[at], [site])[site]
            else:
                states = one.residual[at.to(one.residual.device)]
                for layer in range(self._layer, self._top + 1):
                    states, _ = through(self._model, states, layer)
            ends = states[torch.arange(len(at)), one.last[at].to(states.device)].double()
            found.update(zip([one.rows[place] for place in at.tolist()], ends, strict=True))
        return torch.stack([found[row] for row in rows])

    def go_to(self, layer: int) -> None:
        """Go on to a higher layer, through those between as they are now."""
        for one in self._chunks:
            if one.residual is not None:
                for passed in range(self._layer, layer):
                    one.residual, _ = through(self._model, one.residual, passed)
        self._layer = layer
