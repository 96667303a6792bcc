"""The editor that a manifest names, through the table of ``mechstyle edit``'s methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from mechstyle.cli.methods import METHODS, Job, Method, MethodSpec, require_own_options
from mechstyle.cli.tuning import Tuning
from mechstyle.documents import Documents, documents_for
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.covariance_cache import cached_covariance
from mechstyle.editing.hparams import Hyperparameters, hyperparameters, published_widths
from mechstyle.errors import InputError, ModelError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.sites import check_layer
from mechstyle.study.reproduce.data import file_digest
from mechstyle.study.reproduce.manifest import Manifest, MethodPart

__all__ = ["Editing", "Plan", "plan_editing"]

ELSEWHERE: Final = ("covariance", "text", "n_keys")
"""Options of ``mechstyle edit`` that are in a manifest's own part ``keys``, or given when it is run."""
KEYS_PER_NEURON: Final = 20


@dataclass(frozen=True)
class Plan:
    """How a manifest's edits are made, checked as far as it can be without a model.

    Args:
        job: without what has to be read from a model.
        documents: text for second moments; None where none are needed, or a file has them.
        covariance: a file of second moments.
    """

    part: MethodPart
    spec: MethodSpec
    job: Job
    n_keys: int | None
    documents: Documents | None
    covariance: Path | None

    def settings(self) -> dict[str, Any]:
        """What the edits depend on besides the model and the requests, as JSON."""
        known, tuning = self.job.known, self.job.tuning
        return {
            "method": self.part.name,
            "applied": self.part.applied,
            "layers": list(self.job.layers),
            "options": {name: getattr(tuning, name) for name in tuning.given},
            "known": None if known is None else known.source,
            "seed": self.job.seed,
            "covariance": None if self.covariance is None else file_digest(self.covariance),
            "text": None if self.documents is None else self.documents.source,
            "n_keys": self.n_keys,
        }


@dataclass(frozen=True)
class Editing:
    """A plan on a model; moments and contexts are read when the first edit is made."""

    plan: Plan
    model: HookedModel

    def __call__(self, requests: Sequence[EditRequest]) -> AnyEdit:
        """The edit of these requests."""
        edit: AnyEdit = self.editor(self.model, requests)
        return edit

    @cached_property
    def editor(self) -> Callable[[HookedModel, Sequence[EditRequest]], Any]:
        """The editor, with all that it needs."""
        plan, model = self.plan, self.model
        job = replace(plan.job, moments=self._moments(), repeated=plan.part.applied != "alone")
        if plan.spec.contexts is not None:
            job = replace(job, contexts=plan.spec.contexts(model, job))
        return plan.spec.make(job)

    def _moments(self) -> Covariance | None:
        plan, model = self.plan, self.model
        if plan.covariance is not None:
            return Covariance.load(plan.covariance)
        if plan.documents is None:
            return None
        n_keys = KEYS_PER_NEURON * int(model.cfg.d_mlp) if plan.n_keys is None else plan.n_keys
        bos = plan.job.prepend_bos
        return cached_covariance(
            model, plan.documents.texts, layers=list(plan.job.layers), n_keys=n_keys, prepend_bos=bos
        )


def plan_editing(
    manifest: Manifest,
    *,
    covariance: str | os.PathLike[str] | None = None,
    text: str | os.PathLike[str] | None = None,
    needs_text: bool = True,
) -> Plan | None:
    """How the edits of a manifest are made; None where the model is scored as it is.

    Args:
        covariance: a file of second moments, instead of text.
        text: instead of the manifest's.
        needs_text: refuse a method that needs second moments where there is no text for them.

    Raises:
        InputError: an unknown method, an option that it does not have or that no manifest has, no published
            hyper-parameters where no layers are named, or no text.

    Example:
        >>> plan_editing(read_manifest("gpt2-xl-rome"), needs_text=False).job.layers
        (17,)
    """
    part = manifest.method
    if part is None:
        return None
    spec, tuning = _spec(part), _tuning(part)
    require_own_options(Method(part.name), tuning)
    tuning.require_numbers(cosine=spec.layers == "allowed")
    if spec.preserves:
        raise InputError(f"method.name: {part.name} needs texts to preserve, which no manifest has yet.")
    if part.applied != "alone" and not spec.weights:
        raise InputError(
            f"method.applied: {part.name} changes no weights; its edits can only be tried alone."
        )
    if part.layers is not None and spec.layers == "none":
        raise InputError(f"method.layers: {part.name} finds its own places; leave them out.")
    known: Hyperparameters | None = None
    if part.layers is None and spec.layers == "needed":
        known = hyperparameters(manifest.model, str(spec.hparams))
    documents = None
    if spec.moments and covariance is None and (needs_text or text is not None):
        documents = documents_for(
            manifest.model, manifest.keys.text if text is None else text, seed=manifest.seed
        )
    job = Job(
        tuning=tuning if known is None else tuning.filled(known),
        layers=part.layers or (() if known is None else known.layers),
        known=known,
        seed=manifest.seed,
        prepend_bos=manifest.scoring.prepend_bos,
    )
    spec.make(job)  # refuses what no model can take
    file = None if covariance is None or not spec.moments else Path(covariance)
    return Plan(part, spec, job, manifest.keys.n_keys if spec.moments else None, documents, file)


def require_fitting_model(plan: Plan | None, model: HookedModel) -> None:
    """Refuse a model that has not the layers, or not the shape that published settings are for.

    Raises:
        RangeError: a layer is out of range.
        ModelError: another shape.
    """
    if plan is None:
        return
    for layer in plan.job.layers:
        check_layer(layer, int(model.cfg.n_layers), name="method.layers")
    if plan.job.known is not None:
        wanted, found = (
            published_widths()[plan.job.known.model],
            (int(model.cfg.n_layers), int(model.cfg.d_mlp)),
        )
        if found != wanted:
            raise ModelError(
                f"model: the manifest's settings are those of {plan.job.known.model}, of {wanted[0]} layers "
                f"and d_mlp {wanted[1]}; got one of {found[0]} layers and d_mlp {found[1]}. Name its layers "
                "and settings in a manifest of its own."
            )


def _spec(part: MethodPart) -> MethodSpec:
    if part.name not in {str(method) for method in Method}:
        raise InputError(f"method.name: expected one of {', '.join(Method)}, got {part.name!r}.")
    return METHODS[Method(part.name)]


def _tuning(part: MethodPart) -> Tuning:
    allowed = [one.name for one in fields(Tuning) if one.name not in ELSEWHERE]
    for name, value in part.settings.items():
        if name not in allowed:
            raise InputError(f"method.settings: expected some of {', '.join(allowed)}, got {name!r}.")
        if not isinstance(value, (bool, int, float, str)):
            raise InputError(
                f"method.settings.{name}: expected a number, text or truth value, got {value!r}."
            )
    return Tuning(**part.settings)  # type: ignore[arg-type]  # each is checked where it is used
