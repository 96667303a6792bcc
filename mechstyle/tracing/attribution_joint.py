"""Cells that set several states one after the other, each from what the run makes of those before.

Putting the outputs of a window of layers back changes each output by its source value less its *present* one:
what the layer gives once the outputs below are put back. The effect is the sum of these changes, each times
the gradient of the base run. Had each change been counted from the base, what one layer does through the next
would be counted twice. All changes lie at one token, so the present values need runs of that one position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Hook, Recording, default_memory, logits, rows_within
from mechstyle.runs.columns import run_columns
from mechstyle.sites import Kind, Site
from mechstyle.tracing.attribution_runs import Embedded, upcast

__all__ = ["Joint", "joint_terms"]

States = Mapping[int, Float[Tensor, "row token d_model"]]


@dataclass(frozen=True, eq=False)
class Joint:
    """The cells of one kind, in one base run.

    Attributes:
        base: the side that the states are put into.
        site: the outputs that are set.
        values: by layer, what they are set to.
        slopes: by layer, the gradients there.
        spans: by the cells' layer, the layers that are set.
        before: by layer, what is put in place of the residual stream that leaves it, before the span that
            begins above; None where spans begin in the base run itself.
        tokens: the columns of all these.
        rows: most rows in one whole run.
    """

    base: Embedded
    site: Kind
    values: States
    slopes: States
    spans: Sequence[range]
    before: Sequence[Float[Tensor, "row token d_model"]] | None
    tokens: range
    rows: int

    @property
    def starts(self) -> list[int]:
        """Where spans begin; those that begin together share a change, which the longest of them needs."""
        return sorted({span.start for span in self.spans if span})

    @property
    def depth(self) -> int:
        """Layers of the longest span."""
        return max(len(span) for span in self.spans)

    @property
    def n_rows(self) -> int:
        """Rows of one change."""
        return max(map(len, (*self.values.values(), *self.slopes.values(), *(self.before or ()))))

    def reached(self, layer: int) -> list[int]:
        """The starts of the changes that go through a layer."""
        return [start for start in self.starts if start <= layer < start + self.depth]


def joint_terms(
    model: HookedModel, joint: Joint, recording: Recording | None
) -> Float[Tensor, "row token layer"]:
    """First-order effect of each cell's settings, less that of the state put in before them.

    Args:
        recording: the base run, from which single positions are run; None runs whole sequences, which takes
            as long as the exact effects do.
    """
    gains = _Gains(joint)
    if recording is not None:
        _single_positions(model, gains, recording)
    else:
        for index in range(len(joint.tokens)):
            _whole(model, gains, index)
    return gains.by_cell()


@dataclass(frozen=True, eq=False)
class _Gains:
    """The effects of settings, as runs go through them: by start and layer, for some tokens at a time."""

    joint: Joint
    found: dict[tuple[int, int], list[Float[Tensor, "row token"]]] = field(default_factory=dict)

    def set(
        self,
        layer: int,
        now: Float[Tensor, "change row token d"],
        *,
        starts: Sequence[int],
        columns: slice,
    ) -> Float[Tensor, "change row token d"]:
        """Note what setting the outputs of a layer is worth, and return what they are set to."""
        value, slope = (states[layer][:, columns] for states in (self.joint.values, self.joint.slopes))
        for start, gain in zip(starts, ((upcast(value) - upcast(now)) * upcast(slope)).sum(-1), strict=True):
            self.found.setdefault((start, layer), []).append(gain)
        return value.to(now).expand_as(now)

    def by_cell(self) -> Float[Tensor, "row token layer"]:
        """Sums over the layers of each span."""
        whole = {place: torch.cat(parts, dim=1) for place, parts in self.found.items()}
        zero = torch.zeros_like(next(iter(whole.values())))
        sums = [sum((whole[span.start, layer] for layer in span), zero) for span in self.joint.spans]
        return torch.stack(sums, dim=2)


def _single_positions(model: HookedModel, gains: _Gains, recording: Recording) -> None:
    joint, tokens = gains.joint, gains.joint.tokens
    rows = rows_within(model, default_memory(model), width=1, n_positions=tokens[-1] + 1, n_last=0)
    at_once = max(1, rows // (joint.n_rows * min(joint.depth, len(joint.starts))))
    for first in range(0, len(tokens), at_once):
        columns = slice(first, first + at_once)
        hooks = [
            (Site(layer, joint.site).hook, _setting(gains, layer, columns))
            for layer in joint.values
            if joint.reached(layer)
        ]
        run_columns(
            model,
            {start: _entering(joint, recording, start, columns) for start in joint.starts},
            base=recording,
            positions=tokens[columns],
            depth=joint.depth,
            hooks=hooks,
        )


def _entering(
    joint: Joint, recording: Recording, start: int, columns: slice
) -> Float[Tensor, "row position d_model"]:
    if joint.before is None:
        own = recording.entering(start, 0)[:, list(joint.tokens[columns])]
    else:
        own = joint.before[start - 1][:, columns]
    return own.expand(joint.n_rows, -1, -1)


def _setting(gains: _Gains, layer: int, columns: slice) -> Callable[..., Tensor]:
    n_columns = len(gains.joint.tokens[columns])

    def apply(state: Tensor, hook: Any) -> Tensor:
        now = state.view(-1, gains.joint.n_rows, n_columns, state.shape[-1])
        return gains.set(layer, now, starts=gains.joint.reached(layer), columns=columns).reshape(state.shape)

    return apply


def _whole(model: HookedModel, gains: _Gains, index: int) -> None:
    """The same by whole runs, for models and hooks that need them."""
    joint = gains.joint
    at_once = max(1, joint.rows // joint.n_rows)
    for first in range(0, len(joint.starts), at_once):
        _whole_run(model, gains, index, joint.starts[first : first + at_once])


def _whole_run(model: HookedModel, gains: _Gains, index: int, starts: Sequence[int]) -> None:
    joint, columns = gains.joint, slice(index, index + 1)
    token = slice(joint.tokens[index], joint.tokens[index] + 1)

    def changing(rows: Sequence[int], new: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def apply(state: Tensor, hook: Any) -> Tensor:
            state = state.clone().unflatten(0, (len(starts), joint.n_rows))
            state[rows, :, token] = new(state[rows, :, token])
            return state.flatten(0, 1)

        return apply

    hooks: list[Hook] = [joint.base.hook]
    for row, start in enumerate(starts):
        if joint.before is not None:
            new = partial(_instead, joint.before[start - 1][:, columns])
            hooks.append((Site(start - 1, "resid").hook, changing([row], new)))
    for layer in joint.values:
        here = [start for start in joint.reached(layer) if start in starts]
        if here:
            setting = partial(gains.set, layer, starts=here, columns=columns)
            hooks.append(
                (Site(layer, joint.site).hook, changing([starts.index(one) for one in here], setting))
            )
    ids = joint.base.ids.expand(len(starts) * joint.n_rows, -1)
    logits(model, ids, hooks=hooks, n_last=1)


def _instead(new: Tensor, state: Tensor) -> Tensor:
    return new.to(state).expand_as(state)
