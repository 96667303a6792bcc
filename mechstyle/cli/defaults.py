"""Which layers and other settings an edit has where none were named."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from mechstyle.cli.output import note
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mechstyle.cli.methods import Job
    from mechstyle.editing.hparams import Hyperparameters
    from mechstyle.facts import EditRequest
    from mechstyle.models import HookedModel

__all__ = ["default_settings", "published_settings", "swept_settings"]


def published_settings(model: HookedModel | str, method: str) -> Hyperparameters | None:
    """The row of the table of hyper-parameters; None where there is none.

    Example:
        >>> published_settings("gpt2-xl", "rome").layers
        (17,)
    """
    from mechstyle.editing.hparams import hyperparameters

    try:
        return hyperparameters(model, method)
    except InputError:
        return None


def default_settings(model: HookedModel, name: str, method: str) -> Hyperparameters:
    """Published settings, else the best layer of a shipped sweep, else a suggestion; with a note.

    Args:
        name: that the model was loaded by.
        method: what its rows in the table are called.

    Raises:
        InputError: there are none.
    """
    from mechstyle.editing.hparams import Hyperparameters
    from mechstyle.study.layer import shipped_sweep

    found, sweep = published_settings(model, method), shipped_sweep(name)
    if found is None and sweep is not None:
        best = sweep.loc[sweep["score"].idxmax()]
        source = f"the sweep that ships with {name}, with a score of {best['score']:.2f}"
        found = Hyperparameters(model=name, method=method, layers=(int(best["layer"]),), source=source)
    if found is None:
        try:
            found = _guessed(model, method)
        except InputError as error:
            raise InputError(
                f"--layers missing: name them, such as --layers 4; there are no published ones of {method} "
                f"for {name}, and none can be suggested."
            ) from error
    _tell(found)
    return found


def swept_settings(
    model: HookedModel, method: str, job: Job, requests: Sequence[EditRequest], *, progress: bool
) -> Hyperparameters:
    """Settings for the best of the layers that the job has second moments of, each tried with the requests.

    Args:
        method: what its rows in the table are called.

    Raises:
        InputError: the second moments are of another model.
    """
    from mechstyle.editing.suggest import suggest_hparams

    found = suggest_hparams(
        model,
        method,
        requests=requests,
        covariance=job.moments,
        seed=job.seed,
        prepend_bos=job.prepend_bos,
        progress=progress,
    ).hyperparameters
    _tell(found)
    return found


def _guessed(model: HookedModel, method: str) -> Hyperparameters:
    """A suggestion without trying; its warning, which speaks of Python, becomes a note."""
    from mechstyle.editing.suggest import HparamsWarning, suggest_hparams

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HparamsWarning)
        found = suggest_hparams(model, method).hyperparameters
    note(
        "no layers are known to be good for this model: name them by --layers, or let --sweep N with "
        "--covariance FILE try some with the first N requests."
    )
    return found


def _tell(found: Hyperparameters) -> None:
    named = ",".join(map(str, found.layers))
    note(f"--layers {named} and other settings that were not given: {found.source}.")
