"""Path patching: what one component tells another, past all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.answers import require_positive
from mechstyle.blocks import has_hooks
from mechstyle.errors import InputError, ModelError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, require_hooked
from mechstyle.runs.held import can_hold
from mechstyle.tracing.answer import Metric, Question
from mechstyle.tracing.assembly import Variable, assemble
from mechstyle.tracing.engines import Engine, choose_engine
from mechstyle.tracing.grid import Tokens, token_sets
from mechstyle.tracing.kinds import KINDS
from mechstyle.tracing.path_ends import Place, Receiver, Sender, SenderKind, places_of, senders_of
from mechstyle.tracing.path_resumed import ResumedPaths
from mechstyle.tracing.path_states import Pair
from mechstyle.tracing.path_whole import WholePaths
from mechstyle.tracing.plan import Direction
from mechstyle.tracing.setup import Setup, prepare_prompts
from mechstyle.tracing.targets import Answer
from mechstyle.tracing.trace import Trace

__all__ = ["path_patching"]

ALL_TOKENS = "all tokens"


def path_patching(
    model: HookedModel,
    clean: Fact | str,
    corrupted: Fact | str,
    *,
    answer: Answer = None,
    receivers: Sequence[Receiver],
    senders: Sequence[SenderKind] = ("heads", "mlp"),
    direction: Direction = "denoising",
    through_mlps: bool = True,
    metric: Metric = "logprob",
    tokens: Tokens | None = None,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    engine: Engine = "auto",
) -> Trace:
    """Measure what each head and MLP does to the answer through some receivers' inputs alone.

    Two runs a sender (Wang et al. 2022, appendix B; Goldowsky-Dill et al. 2023). In the first, the sender's
    output comes from the other prompt while all other heads' outputs stay as they are, and the receivers'
    inputs are recorded. In the second these inputs are set to the recorded ones, nothing else is, and the
    answer is measured. A sender above every receiver changes nothing.

    Args:
        clean: the prompt with the right answer; a Fact gives the tokens roles, and `answer=None` its target.
        corrupted: a prompt with as many tokens.
        answer: None is the clean fact's target; "predicted" is the model's own top token; else the exact
            continuation, or a `Contrast` of two.
        receivers: all are set at once. "logits" measures direct effects; it hides receivers below it, as
            "resid" does.
        senders: "heads", "mlp" or both.
        direction: "denoising" sends clean outputs in the corrupted run; "noising" sends corrupted ones in the
            clean run, as both papers do.
        through_mlps: MLPs between sender and receiver see what the sender changed, so that a path may lead
            through them (Wang et al.); False holds them as heads are held, so that an effect is that of the
            sender alone (Goldowsky-Dill et al.).
        metric: as in `causal_trace`.
        tokens: named sets of the prompt's tokens at which the sender is patched, by indices or role. None is
            one set of all tokens from the first one that differs on, those of the answer included.
        batch_size: most rows in one forward pass, where a row is one sender.
        engine: "resume" computes only what can change; "whole" runs whole sequences; "auto" takes "resume"
            where the model allows it and carries no hooks.

    Returns:
        a trace with the variables "heads" (sample, token, layer, head) and "mlp" (sample, token, layer),
        whose token axis holds the sets.

    Raises:
        TextError: the prompts differ in their number of tokens or in nothing, or cannot be tokenised.
        InputError: no receivers, an unknown kind, direction or engine, or sets of tokens that the prompt does
            not have.
        RangeError: a layer, head, token or `batch_size` is out of range.
        ModelError: the model's logits are not finite.
        WorkError: a run gives a metric that is not finite.

    Example:
        >>> trace = path_patching(
        ...     model, clean, corrupted, answer=" trumpet", receivers=[Receiver(9, "q", head=6)]
        ... )
        >>> trace.indirect_effect("heads").dims
        ('token', 'layer', 'head')
    """
    require_hooked(model)
    places, sending = places_of(model.cfg, receivers), senders_of(model.cfg, senders)
    if direction not in get_args(Direction):
        raise InputError(f"direction: expected 'denoising' or 'noising', got {direction!r}.")
    if not isinstance(through_mlps, bool):
        raise InputError(f"through_mlps: expected True or False, got {through_mlps!r}.")
    if batch_size is not None:
        require_positive("batch_size", batch_size)
    engine = _engine(model, engine)
    setup = prepare_prompts(model, clean, corrupted, answer=answer, metric=metric, prepend_bos=prepend_bos)
    named = token_sets(tokens, setup.encoded)
    # Inputs of receivers are kept for all rows, beside a block's own states.
    fitting = min(one.question.rows_within(model) for one in setup.questions) // (1 + len(places) // 8)
    rows = batch_size or max(1, fitting)
    plan = _Plan(places, sending, named, direction, through_mlps, rows, engine)
    parts = [_measured(model, setup, one.question, plan) for one in setup.questions]
    weights = np.array([one.weight for one in setup.questions])
    done = "from the clean run" if direction == "denoising" else "from the corrupted run"
    return assemble(
        model,
        setup,
        {
            kind: Variable(
                KINDS[kind].dims,
                np.tensordot(weights, np.stack([part.grids[kind] for part in parts]), 1),
                {"long_name": f"{setup.record['metric']} with paths from {kind} {done}"},
            )
            for kind in senders
        },
        clean=float(weights @ [part.clean for part in parts]),
        corrupted=np.array([weights @ [part.corrupted for part in parts]]),
        sets=[ALL_TOKENS] if named is None else named,
        settings={
            "receivers": [str(one) for one in receivers],
            "kinds": list(senders),
            "direction": direction,
            "through_mlps": through_mlps,
            "tokens": None if named is None else {name: list(found) for name, found in named.items()},
            "window": 1,
            "knows": parts[0].knows,
            "engine": engine,
            "max_batch": rows,
        },
    )


@dataclass(frozen=True)
class _Plan:
    places: tuple[Place, ...]
    senders: list[Sender]
    named: Mapping[str, Sequence[int]] | None
    direction: Direction
    through_mlps: bool
    rows: int
    engine: Engine

    def positions(self, first: int, width: int) -> list[list[int]]:
        """Where each set of tokens is patched: not where the prompts are still the same."""
        sets: Iterable[Sequence[int]] = [range(width)] if self.named is None else self.named.values()
        return [[position for position in positions if position >= first] for positions in sets]

    def grids(self, cfg: Any, value: float) -> dict[str, NDArray[np.float64]]:
        """A grid for each kind of sender, in which nothing has an effect yet."""
        places, kinds = 1 if self.named is None else len(self.named), {one.kind for one in self.senders}
        shapes = {"heads": (int(cfg.n_layers), int(cfg.n_heads)), "mlp": (int(cfg.n_layers),)}
        return {kind: np.full((1, places, *shapes[kind]), value) for kind in kinds}


@dataclass(frozen=True, eq=False)
class _Measured:
    clean: float
    corrupted: float
    grids: Mapping[str, Float[NDArray[np.float64], "1 set *sender"]]
    knows: bool


def _measured(model: HookedModel, setup: Setup, question: Question, plan: _Plan) -> _Measured:
    """The metric of both runs and of every sender, for one question."""
    clean, corrupted = setup.clean(question).ids, setup.corrupted(question).ids
    denoising = plan.direction == "denoising"
    base, source = (corrupted, clean) if denoising else (clean, corrupted)
    kind = ResumedPaths if plan.engine == "resume" else WholePaths
    runs = kind.of(model, Pair(base, source, plan.places, question.n_answer, plan.through_mlps))
    ends = (runs.source_logits, runs.base_logits)
    clean_logits, corrupted_logits = ends if denoising else ends[::-1]
    if not bool(torch.isfinite(clean_logits).all()):
        raise ModelError(
            "model: its logits on the clean prompt are NaN or infinite. Load a model with finite weights."
        )
    question = question.given(clean_logits)
    scores = [
        float(question.score(logits, run=run)[0])
        for logits, run in ((clean_logits, "clean"), (corrupted_logits, "corrupted"))
    ]
    grids = plan.grids(model.cfg, scores[1] if denoising else scores[0])
    for place, positions in enumerate(plan.positions(setup.first, base.shape[1])):
        for some, logits in runs.patched(plan.senders, positions, max_rows=plan.rows):
            for sender, score in zip(some, question.score(logits, run="patched"), strict=True):
                at = (sender.layer,) if sender.head is None else (sender.layer, sender.head)
                grids[sender.kind][(0, place, *at)] = score
    return _Measured(scores[0], scores[1], grids, question.greedy(clean_logits))


def _engine(model: HookedModel, engine: Engine) -> Engine:
    """As for other traces, but where attention cannot be held, or hooks would miss it, runs are whole."""
    chosen = choose_engine(model, engine)
    if chosen == "resume" and (has_hooks(model) or not can_hold(model)):
        if engine == "resume":
            raise InputError(
                "engine: paths of this model are run whole, since it carries hooks, or norms after its "
                "attention; use 'auto' or 'whole'."
            )
        return "whole"
    return chosen
