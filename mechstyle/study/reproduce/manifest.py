"""A manifest: everything that one row of a table depends on, as TOML."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from mechstyle.errors import FileError, InputError, RangeError
from mechstyle.study.reproduce.published import PublishedRow, published_row

__all__ = [
    "Applied",
    "DataPart",
    "KeysPart",
    "Manifest",
    "MethodPart",
    "ScoringPart",
    "manifest_names",
    "read_manifest",
]

FOLDER: Final = "manifests"
Applied = Literal["alone", "together", "in turn"]
"""Each edit alone in the model; all of them solved for together; or each on top of those before."""
Reading = Literal["as edits", "true answers"]
Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class DataPart:
    """Which requests, in the file's order.

    Args:
        file: the name of the published file, for the reader; the path is given when it is run.
        records: take the first so many; None takes all.
        reading: "as edits" takes what ``read_edit_file`` makes of a record. "true answers" is for zsRE as
            in ROME's code: the first true answer is written, and a question mark ends the unrelated question.
        organism: an embedded model whose own facts are edited, in place of a file.
        drawn: random requests of the organism's, of which ``records`` are taken.
        invented: only of its invented (true) or of its real subjects (false); None takes both.
        known: pass over facts that the model does not complete (whole target, teacher-forced).
        edit_in_front: ask the neighbours again behind the edit's sentence, as in CounterFact+.
    """

    file: str | None = None
    records: int | None = None
    reading: Reading = "as edits"
    organism: str | None = None
    drawn: int | None = None
    invented: bool | None = None
    known: bool = False
    edit_in_front: bool = False

    def __post_init__(self) -> None:
        for name in ("records", "drawn"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RangeError(f"data.{name}: expected a whole number of at least 1, got {value!r}.")
        for name in ("known", "edit_in_front"):
            _require_one_of(f"data.{name}", getattr(self, name), (True, False))
        _require_one_of("data.invented", self.invented, (None, True, False))
        _require_one_of("data.reading", self.reading, get_args(Reading))
        if (self.file is None) == (self.organism is None):
            raise InputError("data: expected either file, the name of a file, or organism, a model's name.")
        if self.organism is not None and (self.drawn is None or self.records is None):
            raise InputError("data: with organism, say how many are drawn, and how many of them are records.")
        if self.organism is None and self.invented is not None:
            raise InputError("data.invented: only an organism has invented subjects; leave it out.")


@dataclass(frozen=True, kw_only=True)
class MethodPart:
    """Which editor, as in ``mechstyle edit``.

    Args:
        name: as for ``--method``.
        layers: to write into; None takes all settings from the table of published hyper-parameters, or leaves
            the layers to a method that finds its own.
        settings: options of ``mechstyle edit`` that the method has, with underscores; they win over the
            table.
    """

    name: str
    applied: Applied = "alone"
    layers: tuple[int, ...] | None = None
    settings: Mapping[str, bool | int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_one_of("method.applied", self.applied, get_args(Applied))
        if self.layers is not None:
            given = self.layers if isinstance(self.layers, (list, tuple)) else (None,)
            if not given or any(isinstance(one, bool) or not isinstance(one, int) for one in given):
                raise InputError(f"method.layers: expected a list of whole numbers, got {self.layers!r}.")
            object.__setattr__(self, "layers", tuple(self.layers))
        _require_table("method.settings", self.settings)


@dataclass(frozen=True, kw_only=True)
class KeysPart:
    """Text for second moments of keys, where the method needs them.

    Args:
        text: as for ``--text``; None wants one when it is run, unless the model brings its own.
        n_keys: None takes 20 for each neuron of the layer.
    """

    text: str | None = None
    n_keys: int | None = None


@dataclass(frozen=True, kw_only=True)
class ScoringPart:
    """How answers are scored.

    Args:
        reduce: of a target's token log-probabilities; published code takes their mean.
        prepend_bos: None takes the model's default; published code puts nothing in front.
    """

    reduce: Literal["mean", "sum"] = "mean"
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        _require_one_of("scoring.reduce", self.reduce, ("mean", "sum"))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One row to reproduce.

    Args:
        model: as for ``load_model``; published hyper-parameters are looked up by this name.
        table: of ``published.toml``, in which the row is.
        editor: as the row is called there, beside ``row_model``.
        row_model: the row's model; None is ``model`` without the owner of a hub id, in small letters.
        note: what is known to differ from the published run.
        method: None scores the model as it is.
        tolerance: metric -> largest difference that still counts as reproduced, in our units (0 to 1);
            metrics that are not named have one that follows from sampling (``verdict.tolerances``).
        seed: of everything that is drawn.

    Raises:
        InputError: a part is wrong, or no published row is called so.

    Example:
        >>> read_manifest("gpt2-xl-rome").row.label
        'rome-counterfact: gpt2-xl, ROME'
    """

    name: str
    model: str
    table: str
    editor: str
    data: DataPart
    row_model: str | None = None
    note: str = ""
    method: MethodPart | None = None
    keys: KeysPart = field(default_factory=KeysPart)
    scoring: ScoringPart = field(default_factory=ScoringPart)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("name", "model", "table", "editor"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{name}: expected text that is not blank, got {value!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"seed: expected a whole number, got {self.seed!r}.")
        metrics = [figure.metric for figure in self.row.figures]
        for metric, value in _require_table("tolerance", self.tolerance).items():
            if metric not in metrics:
                raise InputError(
                    f"tolerance: {metric!r} is no figure of {self.row.label}; it has {', '.join(metrics)}."
                )
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value < float("inf")
            ):
                raise RangeError(f"tolerance.{metric}: expected a number of at least 0, got {value!r}.")

    @property
    def row(self) -> PublishedRow:
        """The published row."""
        name = self.model.rsplit("/", 1)[-1].lower() if self.row_model is None else self.row_model
        return published_row(self.table, name, self.editor)

    @property
    def expected(self) -> int | None:
        """Records that the published row is about; where that is not known, those that the manifest takes."""
        return self.data.records if self.row.records is None else self.row.records

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**asdict(self), "published": self.row.label, "source": self.row.source}


def manifest_names() -> list[str]:
    """The manifests that ship with mechstyle.

    Example:
        >>> "gpt2-xl-rome" in manifest_names()
        True
    """
    shipped = files(__package__).joinpath(FOLDER).iterdir()
    return sorted(path.name.removesuffix(".toml") for path in shipped if path.name.endswith(".toml"))


def read_manifest(source: str | os.PathLike[str]) -> Manifest:
    """A manifest by the name it ships under, or from a TOML file.

    Raises:
        FileError: there is no such manifest or file, or it is no TOML.
        InputError: a key is unknown or missing, or a value is wrong.

    Example:
        >>> read_manifest("gpt2-medium-rome").model
        'gpt2-medium'
    """
    known = manifest_names()
    if isinstance(source, str) and source in known:
        text = files(__package__).joinpath(FOLDER, f"{source}.toml").read_text(encoding="utf-8")
    else:
        path = Path(source)
        if not path.is_file():
            raise FileError(
                f"manifest: {source} is no file, and none that ships is called so; there are: "
                f"{', '.join(known)}."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"manifest: cannot read {source}: {error}.") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"manifest: {source} is not valid TOML: {error}.") from error
    try:
        return _manifest(data)
    except InputError as error:
        raise type(error)(f"manifest {source}: {error}") from error


def _manifest(data: Mapping[str, Any]) -> Manifest:
    parts = {"data": DataPart, "method": MethodPart, "keys": KeysPart, "scoring": ScoringPart}
    whole = dict(data)
    for name, kind in parts.items():
        if name in whole:
            whole[name] = _part(kind, f"[{name}]", _require_table(name, whole[name]))
    return _part(Manifest, "the manifest", whole)


def _part(kind: type[Part], where: str, data: Mapping[str, Any]) -> Part:
    """A dataclass from a table whose keys are its fields and nothing else.

    Raises:
        InputError: a key is unknown or missing.
    """
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in data if key not in known]
    needed = [
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING and name not in data
    ]
    if unknown or needed:
        raise InputError(
            f"{where} has the keys {', '.join(known)}; unknown: {', '.join(unknown) or 'none'}; "
            f"missing: {', '.join(needed) or 'none'}."
        )
    return kind(**data)


def _require_table(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name}: expected a table, got {type(value).__name__} {value!r}.")
    return value


def _require_one_of(name: str, value: object, known: tuple[str | bool | None, ...]) -> None:
    if value not in known:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}.")
