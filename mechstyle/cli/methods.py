"""The methods of ``mechstyle edit``: one row for each says which options it has and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from mechstyle.cli.sizes import Size, beside_the_weights, dense, low_rank, trained, unknown
from mechstyle.cli.tuning import Tuning, option
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.editing.covariance import Covariance
    from mechstyle.editing.edit import EditSet
    from mechstyle.editing.hparams import Hyperparameters
    from mechstyle.editing.memory import MemoryEdit
    from mechstyle.facts import EditRequest
    from mechstyle.models import HookedModel

    Editor = Callable[[HookedModel, Sequence[EditRequest]], EditSet | MemoryEdit]

__all__ = ["METHODS", "Job", "Method", "MethodSpec", "require_own_options"]


class Method(StrEnum):
    """How facts are written."""

    ROME = "rome"
    MEMIT = "memit"
    EMMET = "emmet"
    ALPHAEDIT = "alphaedit"
    FT = "ft"
    FT_L = "ft-l"
    FT_KL = "ft-kl"
    NEURONS = "neurons"
    CACHE = "cache"
    IN_CONTEXT = "in-context"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a method is called with.

    Args:
        layers: none where the method chooses them itself.
        contexts: sampled before; None leaves it to the editor.
        preserve: texts that fine-tuning is to leave as they are.
        known: a row of the table of hyper-parameters, for what was not given.
        batch_size: of one call of the editor.
        repeated: it is called several times, so that what they share is worked out before.
    """

    tuning: Tuning
    layers: tuple[int, ...] = ()
    moments: Covariance | None = None
    contexts: tuple[str, ...] | None = None
    preserve: tuple[str, ...] = ()
    known: Hyperparameters | None = None
    batch_size: int | None = None
    repeated: bool = False
    seed: int = 0
    prepend_bos: bool | None = None
    progress: bool = False


@dataclass(frozen=True)
class MethodSpec:
    """A row of ``METHODS``.

    Args:
        options: fields of ``Tuning`` that it has.
        make: the editor for a job.
        size: of what it writes.
        hparams: what its row is called in the table of hyper-parameters.
        layers: whether they have to be named, may be, or are not its business.
        moments: it needs second moments of keys.
        contexts: samples the contexts of its prompts by seed; None without any.
        one_by_one: it writes one request at a time.
        batches: it may be told to write some requests at a time, on top of those before.
        preserves: it needs texts that are to stay as they are.
        weights: it changes weights, so that a ledger can hold its edits.
    """

    options: frozenset[str]
    make: Callable[[Job], Editor]
    size: Size
    hparams: str | None = None
    layers: Literal["needed", "allowed", "none"] = "needed"
    moments: bool = False
    contexts: Callable[[HookedModel, Job], tuple[str, ...]] | None = None
    one_by_one: bool = False
    batches: bool = False
    preserves: bool = False
    weights: bool = True


def require_own_options(method: Method, tuning: Tuning) -> None:
    """Refuse options of other methods.

    Raises:
        InputError: one was given; the methods that have it are named.
    """
    for field in tuning.given:
        if field not in METHODS[method].options:
            owners = ", ".join(other for other, spec in METHODS.items() if field in spec.options)
            raise InputError(f"{option(field)} belongs to --method {owners}, not to --method {method}.")


def _rome_contexts(model: HookedModel, job: Job) -> tuple[str, ...]:
    from mechstyle.editing.keys import sample_contexts

    return sample_contexts(model, job.seed)


def _contexts(model: HookedModel, job: Job) -> tuple[str, ...]:
    from mechstyle.editing.keys import memit_contexts, sample_contexts

    return (memit_contexts if job.tuning.legacy else sample_contexts)(model, job.seed)


def _closed_form(job: Job) -> dict[str, Any]:
    """What all methods with a closed form are called with."""
    from mechstyle.editing.batch_methods import MEMIT_OPTIONS

    base = None if job.known is None else job.known.target_options
    return {
        "layers": list(job.layers),
        "covariance": job.moments,
        "contexts": job.contexts,
        "target_options": job.tuning.target_options(MEMIT_OPTIONS if base is None else base),
        "batch_size": job.batch_size,
        "legacy": bool(job.tuning.legacy),
        "seed": job.seed,
        "prepend_bos": job.prepend_bos,
        "progress": job.progress,
    }


def _rome(job: Job) -> Editor:
    from mechstyle.editing.methods import rome
    from mechstyle.editing.target_options import TargetOptions

    base = None if job.known is None else job.known.target_options
    return partial(
        rome,
        layer=list(job.layers),
        covariance=job.moments or {},
        contexts=job.contexts,
        target_options=job.tuning.target_options(TargetOptions() if base is None else base),
        legacy=bool(job.tuning.legacy),
        seed=job.seed,
        prepend_bos=job.prepend_bos,
    )


def _memit(job: Job) -> Editor:
    from mechstyle.editing.batch_methods import memit

    return partial(memit, **_closed_form(job), **job.tuning.chosen(mom2_weight="mom2_weight"))


def _emmet(job: Job) -> Editor:
    from mechstyle.editing.batch_methods import emmet

    return partial(emmet, **_closed_form(job), **job.tuning.chosen(ridge="ridge"))


def _alphaedit(job: Job) -> Editor:
    from mechstyle.editing.batch_methods import NULL_PUBLISHED, NULL_SHARE, alphaedit
    from mechstyle.null_space import null_space

    legacy, given = bool(job.tuning.legacy), job.tuning.chosen(threshold="threshold", l2="l2")
    if job.repeated and job.moments is not None:
        small = given.pop("threshold", NULL_PUBLISHED if legacy else NULL_SHARE)
        moments = {layer: job.moments[layer] for layer in job.layers if layer in job.moments}
        given["bases"] = {layer: null_space(one, small, absolute=legacy) for layer, one in moments.items()}
    return partial(alphaedit, **_closed_form(job), **given)


def _finetune(job: Job) -> Editor:
    from mechstyle.editing.finetune import finetune
    from mechstyle.editing.finetune_options import FinetuneOptions

    base = None if job.known is None else job.known.finetune_options
    return partial(
        finetune,
        layers=list(job.layers),
        parameters=trained(job.tuning),
        options=job.tuning.finetune_options(FinetuneOptions() if base is None else base),
        preserve=list(job.preserve),
        seed=job.seed,
        prepend_bos=job.prepend_bos,
        progress=job.progress,
    )


def _constrained(job: Job) -> Editor:
    base = None if job.known is None else job.known.finetune_options
    if job.tuning.norm_constraint is None and (base is None or base.norm_constraint is None):
        raise InputError(
            "--norm-constraint missing: ft-l needs it, such as --norm-constraint 1e-3 (published are 2e-3 "
            "for GPT-2 medium to 5e-5 for GPT-J); --method ft goes without."
        )
    return _finetune(job)


def _neurons(job: Job) -> Editor:
    from mechstyle.editing.neuron_edit import neuron_edit

    given = job.tuning.chosen(mode="mode", steps="steps", threshold="threshold", share="share")
    if job.tuning.legacy:
        given["rule"] = "code"
    return partial(neuron_edit, **given, prepend_bos=job.prepend_bos)


def _cache(job: Job) -> Editor:
    from mechstyle.editing.memory_editors import edit_cache

    if len(job.layers) > 1:
        raise InputError(f"--layers: a cache compares prompts at one layer, got {list(job.layers)}.")
    given = job.tuning.chosen(threshold="threshold", epsilon="epsilon")
    return partial(edit_cache, layer=next(iter(job.layers), None), **given, prepend_bos=job.prepend_bos)


def _in_context(job: Job) -> Editor:
    from mechstyle.editing.memory_editors import in_context_edit

    return partial(in_context_edit, **job.tuning.chosen(template="template"), prepend_bos=job.prepend_bos)


_SEARCH: Final = frozenset({"steps", "lr", "weight_decay", "kl_factor", "clamp_norm"})
_MOMENTS: Final = frozenset({"covariance", "text", "n_keys", "legacy"}) | _SEARCH
_TUNING: Final = frozenset({"steps", "lr", "weight_decay", "parameters", "legacy", "kl_factor"})

_CLOSED: Final[dict[str, Any]] = {"moments": True, "contexts": _contexts, "batches": True}

METHODS: Final[Mapping[Method, MethodSpec]] = MappingProxyType(
    {
        Method.ROME: MethodSpec(
            _MOMENTS, _rome, low_rank, "rome", moments=True, contexts=_rome_contexts, one_by_one=True
        ),
        Method.MEMIT: MethodSpec(_MOMENTS | {"mom2_weight"}, _memit, low_rank, "memit", **_CLOSED),
        Method.EMMET: MethodSpec(_MOMENTS | {"ridge"}, _emmet, low_rank, "emmet", **_CLOSED),
        Method.ALPHAEDIT: MethodSpec(
            _MOMENTS | {"threshold", "l2"}, _alphaedit, low_rank, "alphaedit", **_CLOSED
        ),
        Method.FT: MethodSpec(_TUNING, _finetune, dense, "ft"),
        Method.FT_L: MethodSpec(_TUNING | {"norm_constraint"}, _constrained, dense, "ft-l"),
        Method.FT_KL: MethodSpec(_TUNING | {"text", "preserve"}, _finetune, dense, "ft", preserves=True),
        Method.NEURONS: MethodSpec(
            frozenset({"mode", "steps", "threshold", "share", "legacy"}), _neurons, unknown, layers="none"
        ),
        Method.CACHE: MethodSpec(
            frozenset({"threshold", "epsilon"}), _cache, beside_the_weights, layers="allowed", weights=False
        ),
        Method.IN_CONTEXT: MethodSpec(
            frozenset({"template"}), _in_context, beside_the_weights, layers="none", weights=False
        ),
    }
)
