"""Runs of a target search: the logits after a change at the subject's last token, resumed or whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.blocks import may_resume
from mechstyle.editing.target_rows import TargetRows
from mechstyle.models import HookedModel
from mechstyle.runs import Recording, capture, default_memory, logits, record, resume, rows_within
from mechstyle.sites import Site

__all__ = ["TargetKind", "TargetRuns", "requests_within", "target_runs"]

TargetKind = Literal["mlp", "resid"]


class TargetRuns(Protocol):
    """Runs of some rows with a change added to one state of each."""

    def outputs(self) -> Float[Tensor, "row d_model"]:
        """The state that is changed, before the change."""
        ...

    def logits(
        self, deltas: Float[Tensor, "row d_model"], row: Int[Tensor, " state"], end: Int[Tensor, " state"]
    ) -> Float[Tensor, "state vocab"]:
        """Logits at the asked states (row, place from its end), each row's change added, with gradients."""
        ...

    def kept(self, rows: TargetRows, index: Int[Tensor, " row"]) -> TargetRuns:
        """The same for some of the rows."""
        ...


def target_runs(model: HookedModel, rows: TargetRows, site: Site) -> TargetRuns:
    """Resumed runs where the model allows them and carries no hooks, else whole ones."""
    if may_resume(model):
        return _Resumed.of(model, rows, site)
    return _Whole(model, rows, site)


def requests_within(model: HookedModel, rows: TargetRows, layer: int) -> int:
    """Requests whose states, kept for the backward pass, fit into the default memory; at least one."""
    n_layers = max(1, int(model.cfg.n_layers) - layer)
    longest, resumed = int(rows.lengths.max()), may_resume(model)
    most = rows_within(
        model,
        default_memory(model) // n_layers,
        width=rows.n_after if resumed else longest,
        n_positions=longest,
        n_last=rows.n_last if resumed else longest,
    )
    if resumed:
        most = min(most, _rows_recorded(model, longest, n_layers))
    return max(1, most // int(rows.request.bincount().max()))


def _rows_recorded(model: HookedModel, longest: int, n_layers: int) -> int:
    """Rows whose recorded runs fit: a whole run of one block, one residual stream, keys and values above."""
    cfg, n_bytes = model.cfg, default_memory(model)
    heads = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
    size = next(iter(model.named_parameters()))[1].element_size()
    kept = size * longest * (cfg.d_model + 2 * n_layers * heads * cfg.d_head)
    running = n_bytes / rows_within(model, n_bytes, width=longest, n_positions=longest, n_last=1)
    return int(n_bytes // (kept + running))


@dataclass(frozen=True, eq=False)
class _Resumed:
    """Everything below the layer and before the subject's last token is run once.

    Rows are padded on the left, so that they end together. A change of the MLP's output, or of the residual
    stream, is a change of what enters the next layer.
    """

    model: HookedModel
    rows: TargetRows
    base: Recording
    layer: int
    start: int
    column: Int[Tensor, " row"]
    before: Float[Tensor, "row d_model"]

    @classmethod
    def of(cls, model: HookedModel, rows: TargetRows, site: Site) -> _Resumed:
        lengths = rows.lengths
        width = int(lengths.max())
        column = width - lengths + rows.subject
        start = int(column.min())
        ids = pad_sequence(list(rows.ids), batch_first=True, padding_side="left")
        real = (torch.arange(width) >= (width - lengths)[:, None]).long()
        mask = None if bool(real.all()) else real
        keep = [site] if site.kind == "mlp" else []
        base = record(model, ids, attention_mask=mask, sites=keep, narrow=(site.layer + 1, start))
        states = base.states[site] if keep else base.residuals[site.layer + 1]
        every = torch.arange(len(ids), device=states.device)
        column = column.to(states.device)
        return cls(model, rows, base, site.layer + 1, start, column, states[every, column])

    def outputs(self) -> Tensor:
        return self.before

    def logits(self, deltas: Tensor, row: Tensor, end: Tensor) -> Tensor:
        constant = self.base.entering(self.layer, self.start)
        where = torch.arange(len(constant), device=constant.device), self.column - self.start
        changed = constant.index_put(where, deltas.to(constant.dtype), accumulate=True)
        n_last = self.rows.n_last
        found = resume(
            self.model,
            {self.layer: lambda: changed},
            base=self.base,
            start=self.start,
            n_last=n_last,
            grad=True,
        )
        return found[row.to(found.device), n_last - end.to(found.device)]

    def kept(self, rows: TargetRows, index: Tensor) -> _Resumed:
        here = index.to(self.column.device)
        return _Resumed(
            self.model,
            rows,
            self.base.rows(here),
            self.layer,
            self.start,
            self.column[here],
            self.before[here],
        )


@dataclass(frozen=True, eq=False)
class _Whole:
    """Whole sequences, padded on the right, with the change added by a hook."""

    model: HookedModel
    rows: TargetRows
    site: Site

    def outputs(self) -> Tensor:
        ids, mask = self._padded()
        states = capture(self.model, ids, [self.site], attention_mask=mask)[self.site]
        every = torch.arange(len(ids), device=states.device)
        return states[every, self.rows.subject.to(states.device)]

    def logits(self, deltas: Tensor, row: Tensor, end: Tensor) -> Tensor:
        ids, mask = self._padded()

        def add(state: Tensor, hook: Any) -> Tensor:
            where = torch.arange(len(state), device=state.device), self.rows.subject.to(state.device)
            return state.index_put(where, deltas.to(state.dtype), accumulate=True)

        hooks = [(self.site.hook, add)]
        found = logits(self.model, ids, attention_mask=mask, hooks=hooks, grad=True)
        return found[row.to(found.device), (self.rows.lengths[row] - end).to(found.device)]

    def kept(self, rows: TargetRows, index: Tensor) -> _Whole:
        return _Whole(self.model, rows, self.site)

    def _padded(self) -> tuple[Tensor, Tensor]:
        lengths = self.rows.lengths
        ids = pad_sequence(list(self.rows.ids), batch_first=True)
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()
