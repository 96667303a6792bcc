"""What to study, and the command line that says the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from mechstyle.errors import RangeError
from mechstyle.facts import EditRequest

__all__ = ["StudyConfig", "command_line"]


@dataclass(frozen=True)
class StudyConfig:
    """What to study and where to put it.

    Args:
        out: folder for the results; made when missing, its files of an earlier study are replaced.
        model: as for ``load_model``.
        requests: what to trace and edit; none takes ``n_facts`` of an embedded model's own by ``seed``.
        layer: the layer to edit; None takes the best one of the sweep that ships with the model, or else the
            peak of the traces, or the middle when they single out none.
        samples: noise draws a trace.
        noise: in multiples of sigma.
        text: natural text for second moments, as for ``mechstyle.documents.text_stream``; None takes an
            embedded model's own texts.
        n_keys: key vectors in the second moments; None takes 20 for each neuron of the edited layer.
        cache: take second moments that were measured before, and keep those measured now
            (``cached_covariance``); the results are the same.

    Raises:
        RangeError: a number is out of range.

    Example:
        >>> StudyConfig(out=Path("study"), model="organism-m", n_facts=3).layer
    """

    out: Path
    model: str = "organism-m"
    requests: tuple[EditRequest, ...] = ()
    n_facts: int = 3
    layer: int | None = None
    seed: int = 0
    samples: int = 10
    noise: float = 3.0
    window: int | None = None
    prepend_bos: bool | None = None
    text: str | Path | None = None
    n_keys: int | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        for name in ("n_facts", "samples", "n_keys"):
            value = getattr(self, name)
            if name == "n_keys" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RangeError(f"{name}: expected a whole number of at least 1, got {value!r}.")


def command_line(config: StudyConfig, *, requests: Path) -> str:
    """The command line that repeats a study.

    Args:
        requests: a file that holds the study's requests.

    Example:
        >>> command_line(StudyConfig(out=Path("study")), requests=Path("requests.jsonl"))  # doctest: +SKIP
    """
    words = ["mechstyle", "study", "--model", config.model, "--seed", str(config.seed)]
    words += ["--samples", str(config.samples), "--noise", f"{config.noise:g}"]
    optional = (
        ("--layer", config.layer),
        ("--window", config.window),
        ("--n-keys", config.n_keys),
        ("--text", config.text),
    )
    for option, value in optional:
        words += [option, str(value)] if value is not None else []
    if config.prepend_bos is not None:
        words.append("--prepend-bos" if config.prepend_bos else "--no-prepend-bos")
    return shlex.join([*words, "--requests", str(requests), "--out", str(config.out)])
