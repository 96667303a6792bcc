"""The steps of fine-tuning: Adam on copies of the chosen weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mechstyle.editing.finetune_options import FinetuneOptions
from mechstyle.editing.finetune_rows import Row, RowLogits, draws, read, run_batches
from mechstyle.errors import WorkError
from mechstyle.models import HookedModel, parameter
from mechstyle.runs.training import ReplacedRuns

__all__ = ["FinetuneLog", "FinetunePlan", "Finetuned", "tune"]


@dataclass(frozen=True, eq=False)
class FinetunePlan:
    """What is trained on what.

    Args:
        moving: for each step the parameters that change in it.
        watched: parameters whose gradients are logged, all that ever move among them.
        rows: prompts with their new targets.
        kept: rows to preserve.
    """

    moving: tuple[tuple[str, ...], ...]
    watched: tuple[str, ...]
    rows: tuple[Row, ...]
    kept: tuple[Row, ...]
    kl_factor: float
    options: FinetuneOptions
    seed: int


@dataclass(eq=False)
class FinetuneLog:
    """What was seen at each step, before its update, the one that stopped early included.

    Args:
        losses: mean over the step's prompts of the mean over the new target's tokens of -log P, in nats.
        totals: the same with what preserves.
        norms: of the gradients of the total, in the order of the watched parameters.
        known: whether every prompt had its whole target when it was last read.
    """

    losses: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    norms: list[list[float]] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What came out.

    Args:
        deltas: changes of the parameters that moved, fp64 on the CPU.
        n_steps: updates that were made.
        final_loss: after the last update, over all prompts.
        known_at: updates after which all targets were known for the first time; None for never.
    """

    deltas: Mapping[str, Float[Tensor, "..."]]
    log: FinetuneLog
    n_steps: int
    final_loss: float
    known_at: int | None


def tune(model: HookedModel, plan: FinetunePlan, *, progress: bool) -> Finetuned:
    """Train; the model is not touched.

    Raises:
        WorkError: a loss, gradient or weight became NaN or infinite.
    """
    options = plan.options
    bar = Progress(console=Console(stderr=True), transient=True, disable=not progress)
    # What is made in inference mode cannot have gradients.
    with torch.inference_mode(False), torch.enable_grad(), bar:
        training = _Training(model, plan)
        log = FinetuneLog()
        batches = draws(len(plan.rows), options.batch_size, plan.seed)
        others = draws(len(plan.kept), options.preserve_batch_size, plan.seed + 1)
        read_last = [(math.nan, False)] * len(plan.rows)
        task = bar.add_task("fine-tuning", total=options.steps)
        n_steps = options.steps
        for step, moving in enumerate(plan.moving):
            batch = next(batches)
            seen, total, gradients = training.gradients(batch, next(others) if plan.kept else [])
            for number, row in seen.items():
                read_last[number] = row
            log.losses.append(sum(nll for nll, _ in seen.values()) / len(seen))
            log.totals.append(total)
            log.norms.append(_norms(gradients.values()))
            log.known.append(all(known for _, known in read_last))
            _require_finite(step, "loss", [total])
            _require_finite(step, "gradient", log.norms[-1])
            if sum(nll for nll, _ in read_last) / len(read_last) < options.early_stop:
                n_steps = step
                break
            training.update(moving, gradients)
            bar.advance(task)
        final = training.answers()
        final_loss = sum(nll for nll, _ in final) / len(final)
        _require_finite(n_steps, "loss", [final_loss])
        deltas = training.deltas(plan.moving[:n_steps])
        _require_finite(n_steps, "change of the weights", [float(delta.sum()) for delta in deltas.values()])
    known = [*log.known[:n_steps], all(known for _, known in final)]
    return Finetuned(deltas, log, n_steps, final_loss, known.index(True) if True in known else None)


class _Training:
    """The copies that are trained (in fp32 at least), and the gradients of a batch with respect to them."""

    def __init__(self, model: HookedModel, plan: FinetunePlan) -> None:
        self._model, self._plan = model, plan
        self._runs = ReplacedRuns(model, plan.watched)
        own = {name: parameter(model, name).detach() for name in plan.watched}
        self._dtypes = {name: weight.dtype for name, weight in own.items()}
        moved = dict.fromkeys(name for names in plan.moving for name in names)
        self._base = {name: own[name].to(_exact(own[name])) for name in moved}
        self._leaves = {name: weight.detach().requires_grad_() for name, weight in own.items()}
        self._leaves |= {name: weight.clone().requires_grad_() for name, weight in self._base.items()}
        self._optimiser = torch.optim.Adam(
            [self._leaves[name] for name in moved], lr=plan.options.lr, weight_decay=plan.options.weight_decay
        )

    def gradients(
        self, batch: Sequence[int], others: Sequence[int]
    ) -> tuple[dict[int, tuple[float, bool]], float, dict[str, Tensor]]:
        """Loss and whether it is known by prompt of the batch, the total loss, and its gradients."""
        plan, options = self._plan, self._plan.options
        found = {name: torch.zeros_like(leaf) for name, leaf in self._leaves.items()}
        seen: dict[int, tuple[float, bool]] = {}
        total = 0.0
        for numbers in run_batches(self._model, plan.rows, batch):
            read_now = self._read(plan.rows, numbers)
            nll = read_now.nll(options.loss)
            total += self._add(found, nll.sum() / len(batch))
            seen |= dict(zip(numbers, zip(nll.tolist(), read_now.exact().tolist(), strict=True), strict=True))
        for numbers in run_batches(self._model, plan.kept, others) if others else ():
            read_now = self._read(plan.kept, numbers)
            loss = options.data_factor * read_now.nll()
            if plan.kl_factor > 0:
                was = read(self._runs, {}, [plan.kept[number] for number in numbers])
                loss = loss + plan.kl_factor * read_now.kl_from(was)
            total += self._add(found, loss.sum() / len(others))
        return seen, total, found

    def update(self, moving: Sequence[str], gradients: Mapping[str, Tensor]) -> None:
        """One step of Adam on these parameters, back within the constraint."""
        for name in self._base:
            self._leaves[name].grad = gradients[name] if name in moving else None
        self._optimiser.step()
        largest = self._plan.options.norm_constraint
        if largest is not None:
            for name in moving:
                _constrain(self._leaves[name], self._base[name], largest)

    def answers(self) -> list[tuple[float, bool]]:
        """Loss and whether it is known, for every prompt."""
        rows = self._plan.rows
        seen: dict[int, tuple[float, bool]] = {}
        for numbers in run_batches(self._model, rows, range(len(rows))):
            found = self._read(rows, numbers, grad=False)
            values = zip(found.nll(self._plan.options.loss).tolist(), found.exact().tolist(), strict=True)
            seen |= dict(zip(numbers, values, strict=True))
        return [seen[number] for number in range(len(rows))]

    def deltas(self, steps: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """The changes of what moved in these steps; of all that might have moved where there were none."""
        moved = {name for names in steps for name in names} or set(self._base)
        return {
            name: self._leaves[name].detach().double().cpu() - base.double().cpu()
            for name, base in self._base.items()
            if name in moved
        }

    def _read(self, rows: Sequence[Row], numbers: Sequence[int], *, grad: bool = True) -> RowLogits:
        leaves = {name: leaf if grad else leaf.detach() for name, leaf in self._leaves.items()}
        values = {name: leaf.to(self._dtypes[name]) for name, leaf in leaves.items()}
        return read(self._runs, values, [rows[number] for number in numbers])

    def _add(self, found: dict[str, Tensor], loss: Tensor) -> float:
        parts = torch.autograd.grad(loss, list(self._leaves.values()), materialize_grads=True)
        for total, part in zip(found.values(), parts, strict=True):
            total += part
        return loss.item()


def _constrain(leaf: Tensor, base: Tensor, largest: float) -> None:
    """Put each weight back to within ``largest`` of what it was, not a rounding error beyond."""
    exact = base.double()

    def bound(distance: float) -> Tensor:
        found = (exact + distance).to(base.dtype)
        beyond = (found.double() - exact).abs() > largest
        return torch.where(beyond, torch.nextafter(found, base), found)

    with torch.no_grad():
        leaf.copy_(leaf.clamp(bound(-largest), bound(largest)))


def _norms(gradients: Iterable[Tensor]) -> list[float]:
    norms = [torch.linalg.vector_norm(one, dtype=_exact(one)).double() for one in gradients]
    found: list[float] = torch.stack(norms).tolist()
    return found


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _require_finite(step: int, what: str, numbers: Iterable[float]) -> None:
    broken = [number for number in numbers if not math.isfinite(number)]
    if broken:
        raise WorkError(
            f"finetune: the {what} became {broken[0]} at step {step}; lower FinetuneOptions.lr, or load the "
            "model in a wider dtype."
        )
