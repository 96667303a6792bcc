"""Carry a manifest out: our row of a published table, beside the published one."""

from __future__ import annotations

import os
from typing import Any, Final

import pandas as pd

from mechstyle import models
from mechstyle.answers import require_positive
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.evaluation.summaries import summarise_rows
from mechstyle.evaluation.units import require_no_hooks
from mechstyle.models import HookedModel
from mechstyle.outputs import output_folder
from mechstyle.study.reproduce.data import file_digest, known_cases, manifest_cases
from mechstyle.study.reproduce.editors import plan_editing, require_fitting_model
from mechstyle.study.reproduce.loop import Loop
from mechstyle.study.reproduce.manifest import Manifest, read_manifest
from mechstyle.study.reproduce.reproduction import Reproduction
from mechstyle.study.reproduce.verdict import compare
from mechstyle.threads import few_threads

__all__ = ["reproduce"]

BEHIND_THE_EDIT: Final = "neighborhood+"
"""The kind of question that ``with_edit_in_front`` adds."""


def reproduce(
    manifest: Manifest | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    model: HookedModel | str | os.PathLike[str] | None = None,
    covariance: str | os.PathLike[str] | None = None,
    text: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Reproduction:
    """Make our row of a published table, and put both side by side with a tolerance and a verdict.

    The model is as it was afterwards. With a folder each request's rows are kept there as one file; a run
    that was broken off goes on with those that are missing. What was scored under other settings, of other
    requests (another ``limit``), with other weights or by another version is done anew. One solve of many
    edits is kept when it is whole.

    Args:
        manifest: one that ships, by name; a TOML file; or a ``Manifest``.
        data: the file that the manifest names; none for an organism's own facts.
        folder: for ``table.csv``, ``result.json`` and what is needed to go on.
        limit: take the first requests only; the verdict is then "cannot tell", and says on how many.
        model: where the weights are, if not under the manifest's name; settings stay those of the manifest.
        covariance: a file of second moments, such as ``mechstyle covariance`` writes; None measures them.
        text: to measure them over, as for ``text_stream``; None takes the manifest's, or an organism's own.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the manifest, the data, or what they need is wrong or missing, or there is a folder and
            the model carries hooks; nothing was computed.
        WorkError: edits of many requests at once failed. Where each edit stands alone, those that fail are
            left out and listed.

    Example:
        >>> reproduce("organism-m-rome", limit=3).table["verdict"].unique()  # doctest: +SKIP
        array(['cannot tell'], dtype=object)
    """
    wanted = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    if limit is not None:
        require_positive("limit", limit)
    cases = manifest_cases(wanted, data)
    plan = plan_editing(wanted, covariance=covariance, text=text)
    place = None if folder is None else output_folder(folder)
    hooked = _loaded(wanted.model if model is None else model)
    require_fitting_model(plan, hooked)
    if place is not None:
        require_no_hooks(hooked)
    number = min(limit or len(cases), wanted.data.records or len(cases))
    measures = _measures(wanted)
    with few_threads(hooked):
        bos = models.resolve_bos(hooked, wanted.scoring.prepend_bos)
        chosen = known_cases(hooked, wanted.data, cases, number, prepend_bos=bos)
        settings: dict[str, Any] = {
            "manifest": wanted.to_dict(),
            "editing": None if plan is None else plan.settings(),
            "data": None if data is None else {"path": str(data), "sha256": file_digest(data)},
            "measures": {measure.name: measure.settings() for measure in measures},
            "prepend_bos": bos,
            "limit": limit,
        }
        origin = models.provenance(hooked, **settings)
        loop = Loop(hooked, chosen, measures, plan, bos, wanted.seed, place, progress)
        tables, failures = loop.run()
    summary = _summary(measures, tables, wanted.seed)
    measured = len(chosen) - len(failures)
    table = compare(wanted.row, summary, measured=measured, expected=wanted.expected, given=wanted.tolerance)
    found = Reproduction(wanted, table, summary, tables, failures, measured, origin)
    if place is not None:
        found.save(place)
    return found


def _loaded(model: HookedModel | str | os.PathLike[str]) -> HookedModel:
    if isinstance(model, (str, os.PathLike)):
        return models.load_model(os.fspath(model))
    models.require_hooked(model)
    return model


def _measures(manifest: Manifest) -> list[Measure]:
    """What the published row has figures of."""
    reduce = manifest.scoring.reduce
    known: tuple[Measure, ...] = (
        RequestScores(reduce=reduce),
        Questions((BEHIND_THE_EDIT,), reduce=reduce),
        Generations(),
    )
    wanted = {figure.ours for figure in manifest.row.figures}
    return [measure for measure in known if wanted & {metric.name for metric in measure.metrics}]


def _summary(measures: list[Measure], tables: dict[str, pd.DataFrame], seed: int) -> pd.DataFrame:
    """Every metric with its 95 % interval over requests; none of a table without rows."""
    parts = [
        summarise_rows(tables[measure.name], measure.metrics, ci=0.95, resamples=1000, seed=seed)
        for measure in measures
        if len(tables[measure.name])
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["value", "low", "high"])
