"""Hyper-parameters that are known for a model and method, each with its source (``hparams.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from mechstyle.editing.finetune_options import FinetuneOptions
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError
from mechstyle.models import HookedModel, require_hooked

__all__ = [
    "EDITOR_ARGUMENTS",
    "Hyperparameters",
    "all_hyperparameters",
    "hyperparameters",
    "published_widths",
]

TABLE: Final = "hparams.toml"
EDITOR_ARGUMENTS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "rome": {"layer": "layers", "target_options": "target_options"},
        "memit": {
            "layers": "layers",
            "mom2_weight": "mom2_weight",
            "target_options": "target_options",
        },
        "emmet": {"layers": "layers", "ridge": "ridge", "target_options": "target_options"},
        "alphaedit": {
            "layers": "layers",
            "threshold": "threshold",
            "l2": "l2",
            "legacy": "legacy",
            "target_options": "target_options",
        },
        "ft": {"layers": "layers", "options": "finetune_options"},
        "ft-l": {"layers": "layers", "options": "finetune_options"},
    }
)
"""Method -> argument of its editor -> field of ``Hyperparameters``; FT and FT-L are ``finetune``."""


@dataclass(frozen=True)
class Hyperparameters:
    """What a method is called with on a model, and where the figures come from.

    A field that the method does not have, or that is left to its editor, is None.

    Args:
        layers: to write into, in rising order.
        source: file and commit of the public code, or how they were found.
        mom2_weight: of MEMIT.
        ridge: of EMMET.
        threshold: of AlphaEdit.
        l2: of AlphaEdit.
        legacy: the figures hold in the scales of the published code; the editor has to be called so.
        covariance_documents: articles that the published second moments were read from.

    Example:
        >>> hyperparameters("gpt2-xl", "memit").mom2_weight
        20000.0
    """

    model: str
    method: str
    layers: tuple[int, ...]
    source: str
    target_options: TargetOptions | None = None
    finetune_options: FinetuneOptions | None = None
    mom2_weight: float | None = None
    ridge: float | None = None
    threshold: float | None = None
    l2: float | None = None
    legacy: bool | None = None
    covariance_documents: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the method's editor; the second moments are not among them.

        Example:
            >>> hyperparameters("gpt2-xl", "rome").arguments["layer"]
            (17,)
        """
        fields = EDITOR_ARGUMENTS[self.method].items()
        found = {argument: getattr(self, field) for argument, field in fields}
        return {argument: value for argument, value in found.items() if value is not None}


@dataclass(frozen=True)
class _Known:
    """A model of the table."""

    name: str
    names: tuple[str, ...]
    n_layers: int
    d_mlp: int
    rows: Mapping[str, Hyperparameters]


def hyperparameters(model_or_name: HookedModel | str, method: str) -> Hyperparameters:
    """The hyper-parameters that are known for a model and method.

    Args:
        model_or_name: a model, which is known by its name and has to have the layers and the width of the one
            so called; or a name, with or without the owner of a hub id.
        method: ``"rome"``, ``"memit"``, ``"emmet"``, ``"alphaedit"``, ``"ft"`` or ``"ft-l"``.

    Raises:
        InputError: an unknown method, or no row for this model; the nearest rows are named.
        ModelError: neither a name nor a model of TransformerLens.

    Example:
        >>> hyperparameters("gpt2-medium", "rome").layers
        (8,)
        >>> memit(model, requests, covariance=moments, **hyperparameters(model, "memit").arguments)
    """
    if method not in EDITOR_ARGUMENTS:
        raise InputError(f"method: expected one of {', '.join(EDITOR_ARGUMENTS)}, got {method!r}.")
    table = _table()
    if isinstance(model_or_name, str):
        name, shape = model_or_name, None
    else:
        require_hooked(model_or_name)
        cfg = model_or_name.cfg
        name, shape = str(cfg.model_name), (int(cfg.n_layers), int(cfg.d_mlp))
    found = next((known for known in table if _plain(name) in known.names), None)
    if found is not None and shape not in (None, (found.n_layers, found.d_mlp)):
        found = None
    if found is None or method not in found.rows:
        raise InputError(_absent(table, found, name, shape, method))
    return found.rows[method]


def all_hyperparameters() -> tuple[Hyperparameters, ...]:
    """Every row of the table, by model and then by method.

    Example:
        >>> sorted({row.method for row in all_hyperparameters()})
        ['alphaedit', 'emmet', 'ft', 'ft-l', 'memit', 'rome']
    """
    return tuple(row for known in _table() for row in known.rows.values())


def published_widths() -> dict[str, tuple[int, int]]:
    """Model of the table -> its number of layers and ``d_mlp``.

    Example:
        >>> published_widths()["gpt2-xl"]
        (48, 6400)
    """
    return {known.name: (known.n_layers, known.d_mlp) for known in _table()}


def _table() -> tuple[_Known, ...]:
    data = tomllib.loads(files(__package__).joinpath(TABLE).read_text(encoding="utf-8"))
    return tuple(_known(name, dict(entry)) for name, entry in data.items())


def _known(name: str, entry: dict[str, Any]) -> _Known:
    names, n_layers, d_mlp = tuple(entry.pop("names")), entry.pop("n_layers"), entry.pop("d_mlp")
    rows = {method: _row(name, method, dict(row)) for method, row in entry.items()}
    return _Known(name, names, n_layers, d_mlp, rows)


def _row(model: str, method: str, row: dict[str, Any]) -> Hyperparameters:
    target, finetune = row.pop("target_options", None), row.pop("finetune_options", None)
    return Hyperparameters(
        model=model,
        method=method,
        layers=tuple(row.pop("layers")),
        target_options=None if target is None else TargetOptions(**target),
        finetune_options=None if finetune is None else FinetuneOptions(**finetune),
        **row,
    )


def _plain(name: str) -> str:
    """A name without the owner of a hub id or the folder, and without case."""
    return name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].lower()


def _absent(
    table: tuple[_Known, ...], known: _Known | None, name: str, shape: tuple[int, int] | None, method: str
) -> str:
    """Why there is no row, and which ones are nearest."""
    if known is not None:
        return (
            f"method: {method!r} has no published hyper-parameters for {known.name}, only "
            f"{', '.join(known.rows)}; {method!r} has them for {_listed(table, method)}. "
            "suggest_hparams finds some by a sweep."
        )
    size = "" if shape is None else f" of {shape[0]} layers and d_mlp {shape[1]}"
    alike = [one.name for one in table if shape == (one.n_layers, one.d_mlp) and method in one.rows]
    hint = f" {alike[0]} has this size: if it is one, ask for {alike[0]!r} by name." if alike else ""
    return (
        f"model_or_name: no published hyper-parameters for {name!r}{size}; {method!r} has them for "
        f"{_listed(table, method)}.{hint} suggest_hparams finds some by a sweep."
    )


def _listed(table: tuple[_Known, ...], method: str) -> str:
    names = [f"{one.name} ({one.n_layers} layers)" for one in table if method in one.rows]
    return ", ".join(names)
