"""What changed token embeddings do to the recall of facts, always beside random changes of the same size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mechstyle.answers import require_positive
from mechstyle.errors import InputError, TextError, WorkError
from mechstyle.facts import Fact
from mechstyle.metrics import interval
from mechstyle.models import HookedModel, active_base, provenance, require_hooked
from mechstyle.runs import Hook
from mechstyle.sites import Site
from mechstyle.tracing.answer import MetricName
from mechstyle.tracing.embedding_changes import Change, Embedded, applied, check_facts, listed
from mechstyle.tracing.prompts import AskedPrompt, ask

__all__ = ["average_effects", "changed_embeddings", "embedding_effects"]

Changes = Mapping[str, Change | Sequence[Change]]
RUNS = ("clean", "changed", "control")


def embedding_effects(
    model: HookedModel,
    facts: Sequence[Fact],
    changes: Changes,
    *,
    metric: MetricName = "prob",
    samples: int = 5,
    seed: int = 0,
    read_mlps: bool = False,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Score facts with changed embeddings, and with random changes of the same size at the same tokens.

    A *control* moves each token's embedding as far as the change does, in a random direction; every sample
    has a control of its own. The weights are not touched: embeddings are replaced in the run.

    Args:
        changes: by name, a change or several one after the other: `SwapWords`, `CorruptTokens`,
            `RemoveDirection`, `ErasePredictor`.
        metric: of the fact's target, teacher-forced: "prob" or "logprob" (nats).
        samples: draws of noise and of control directions.
        read_mlps: also measure what the MLPs still recall: what they write at the subject's tokens in the
            changed run takes the place of what they write in an otherwise clean one.
        progress: show a progress bar on stderr.

    Returns:
        a row per fact, change and sample: fact (its number), prompt, target, relation, change, sample, size
        (Euclidean norm of the change), and the metric in the runs clean, changed and control; with
        `read_mlps` also mlp_clean, mlp_changed and mlp_control. Where a prompt has no place for a change (no
        such token or word) there is no row. `attrs["provenance"]` has model, seed and settings, and counts
        those under `left_out`.

    Raises:
        InputError: no facts or changes, or an unknown metric.
        RangeError: `samples` is below 1.
        TextError: a fact's prompt cannot be tokenised, or none has a place for a change.
        WorkError: a metric is not finite.

    Example:
        >>> frame = embedding_effects(model, facts, {"noise": CorruptTokens("last subject token")})
        >>> average_effects(frame)[["change", "effect", "beyond_control"]]
    """
    require_hooked(model)
    _check(facts, changes, metric, samples)
    prompts = [ask(model, fact, metric=metric, prepend_bos=prepend_bos) for fact in facts]
    rows: list[dict[str, Any]] = []
    left_out = dict.fromkeys(changes, 0)
    shown = track(
        zip(facts, prompts, strict=True), "facts", total=len(facts), console=Console(stderr=True),
        disable=not progress, transient=True,
    )  # fmt: skip
    for number, (fact, asked) in enumerate(shown):
        asking = asked.given()
        generator = torch.Generator().manual_seed(_stream(seed, number, "control"))
        about = {"fact": number, "prompt": fact.prompt, "target": fact.target, "relation": fact.relation}
        own = asking.embeddings()
        made: dict[str, Tensor] = {}
        for name, change in changes.items():
            try:
                prompt = Embedded(model, fact, asking.encoded, _stream(seed, number, "change"))
                made[name] = applied(change, prompt, own.expand(samples, -1, -1))
            except TextError:
                left_out[name] += 1
        pairs = [torch.cat([there, own + _random_like(there - own, generator)]) for there in made.values()]
        found = _measured(asking, own, torch.cat([own[None], *pairs]), read_mlps=read_mlps)
        for place, (name, there) in enumerate(made.items()):
            sizes = (there - own).flatten(1).norm(dim=-1).tolist()
            for sample, size in enumerate(sizes):
                first = 1 + 2 * samples * place + sample
                places = dict(zip(RUNS, (0, first, first + samples), strict=True))
                values = {
                    prefix + run: float(one[row])
                    for prefix, one in found.items()
                    for run, row in places.items()
                }
                rows.append({**about, "change": name, "sample": sample, "size": size, **values})
    if empty := [name for name, count in left_out.items() if count == len(facts)]:
        raise TextError(f"changes: no fact's prompt has a place for {', '.join(map(repr, empty))}.")
    frame = pd.DataFrame(rows)
    frame.attrs["provenance"] = provenance(
        model,
        facts=[fact.to_dict() for fact in facts],
        changes={name: [one.record() for one in listed(change)] for name, change in changes.items()},
        left_out=left_out,
        metric=metric,
        samples=samples,
        seed=seed,
        prepend_bos=prompts[0].encoded.prepend_bos,
        active_edits=sorted(active_base(model)),
    )
    return frame


def changed_embeddings(
    model: HookedModel,
    fact: Fact,
    change: Change | Sequence[Change],
    *,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> Float[Tensor, "token d_model"]:
    """The embeddings of a fact's prompt after a change, for the saliency of changed inputs.

    Raises:
        TextError: the prompt has no place for the change.

    Example:
        >>> swapped = changed_embeddings(model, fact, SwapWords("Miles", "Davis"))
        >>> saliency(model, fact, embeddings=swapped)
    """
    asking = ask(model, fact, prepend_bos=prepend_bos)
    prompt = Embedded(model, fact, asking.encoded, seed)
    return applied(change, prompt, asking.embeddings()[None])[0]


def average_effects(
    frame: pd.DataFrame,
    *,
    prefix: str = "",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean effects of each change over facts, with bootstrap intervals over facts.

    Samples of one fact are averaged first, so that every fact has one vote.

    Args:
        frame: from `embedding_effects`.
        prefix: "mlp_" for what the MLPs still recall.

    Returns:
        a row per change: n_facts, size, clean, changed, control, and with low and high: effect (changed minus
        clean), control_effect (control minus clean), beyond_control (changed minus control).

    Raises:
        InputError: the frame lacks the columns.
        RangeError: `level` or `resamples` is out of range.

    Example:
        >>> average_effects(frame)[["change", "effect", "effect_low", "effect_high"]]
    """
    runs = [prefix + run for run in RUNS]
    if missing := [name for name in ("fact", "change", "size", *runs) if name not in frame]:
        raise InputError(
            f"frame: expected the result of embedding_effects, got one without {', '.join(missing)}."
        )
    rows = []
    for name, some in frame.groupby("change", sort=False):
        means = some.groupby("fact")[["size", *runs]].mean()
        clean, changed, control = (means[run] for run in runs)
        row: dict[str, Any] = {"change": name, "n_facts": len(means), **means.mean().to_dict()}
        differences = {
            "effect": changed - clean,
            "control_effect": control - clean,
            "beyond_control": changed - control,
        }
        for column, values in differences.items():
            low, high = interval(values.to_numpy(), level=level, resamples=resamples, seed=seed)
            row |= {column: values.mean(), f"{column}_low": float(low), f"{column}_high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def _check(facts: Sequence[Fact], changes: Changes, metric: str, samples: int) -> None:
    check_facts(facts)
    if not isinstance(changes, Mapping) or not changes:
        raise InputError(
            "changes: expected one or more changes by name, such as {'noise': CorruptTokens(0)}."
        )
    for name, change in changes.items():
        steps = listed(change)
        if not steps or not all(isinstance(one, Change) for one in steps):
            raise InputError(
                f"changes[{name!r}]: expected a change such as SwapWords or CorruptTokens, or several, "
                f"got {change!r}."
            )
    if metric not in ("prob", "logprob"):
        raise InputError(f"metric: expected 'prob' or 'logprob', got {metric!r}.")
    require_positive("samples", samples)


def _stream(seed: int, number: int, use: Literal["change", "control"]) -> int:
    """A seed of one fact's draws: changes and controls, facts, and runs with another seed share none."""
    entropy = [seed, number, int(use == "control")]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _random_like(
    changes: Float[Tensor, "sample token d_model"], generator: torch.Generator
) -> Float[Tensor, "sample token d_model"]:
    """Random directions, as long at every token as the changes are."""
    drawn = torch.randn(changes.shape, generator=generator).to(changes)
    found: Tensor = drawn * (changes.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
    return found


def _measured(
    asking: AskedPrompt,
    own: Float[Tensor, "token d_model"],
    embeddings: Float[Tensor, "row token d_model"],
    *,
    read_mlps: bool,
) -> dict[str, NDArray[np.float64]]:
    """The metric of every row, and with its MLPs' outputs at the subject in an otherwise clean run."""
    found: dict[str, list[Tensor]] = {"": []}
    for some in embeddings.split(asking.rows()):
        reading, writing = _mlps(asking) if read_mlps else ([], [])
        found[""].append(asking.values(some, hooks=reading))
        if read_mlps:
            clean = own.expand(len(some), -1, -1)
            found.setdefault("mlp_", []).append(asking.values(clean, hooks=writing))
    values = {prefix: torch.cat(parts).double().cpu().numpy() for prefix, parts in found.items()}
    if not all(bool(np.isfinite(one).all()) for one in values.values()):
        raise WorkError(
            "embedding_effects: a run gave a score that is NaN or infinite. Use a smaller change, or load "
            "the model with a wider dtype such as torch.float32."
        )
    return values


def _mlps(asking: AskedPrompt) -> tuple[list[Hook], list[Hook]]:
    """Hooks that keep the MLPs' outputs at the subject's tokens in one run, and put them into another."""
    subject = asking.encoded.subject
    assert subject is not None  # a Fact has one
    here, kept = slice(subject.start, subject.stop), dict[str, Tensor]()

    def reader(name: str) -> Callable[..., None]:
        def read(state: Tensor, hook: Any) -> None:
            kept[name] = state[:, here].detach().clone()

        return read

    def writer(name: str) -> Callable[..., Tensor]:
        def write(state: Tensor, hook: Any) -> Tensor:
            return torch.cat([state[:, : here.start], kept[name], state[:, here.stop :]], dim=1)

        return write

    names = [Site(layer, "mlp").hook for layer in range(int(asking.model.cfg.n_layers))]
    return [(name, reader(name)) for name in names], [(name, writer(name)) for name in names]
