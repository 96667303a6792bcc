"""`Trace`: the result of causal tracing, with names, provenance, effects and a file form."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mechstyle.errors import FileError, InputError
from mechstyle.files import atomic_write
from mechstyle.metrics import interval
from mechstyle.tracing.kinds import TRAILING_DIMS
from mechstyle.tracing.measured import Measured

__all__ = ["Trace"]

DIMS = ("sample", "token")
COORDS = (*DIMS, "token_str", "role", "clean", "corrupted")
CHECKSUM = "checksum"


@dataclass(frozen=True, eq=False)
class Trace(Measured):
    """What one state of one run does in another: of the clean run in corrupted ones, or the reverse.

    Attributes:
        data: a variable a kind over (sample, token, layer), for heads over (sample, token, layer, head)
            or kv_head, for neurons over (sample, token, neuron): the metric with the state put
            in there. Coordinates name the tokens, or the sets of tokens (`token_str`, `role`), and keep the
            metric of the clean run (`clean`) and of each corrupted run (`corrupted`). The attribute
            `provenance` is a JSON text.

    Example:
        >>> trace = causal_trace(model, fact)
        >>> trace.indirect_effect("mlp").sel(token=trace.token("last subject token")).idxmax()
    """

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of state that were put in."""
        return tuple(str(name) for name in self.data.data_vars)

    @property
    def clean(self) -> float:
        """The metric of the clean run."""
        return float(self.data["clean"])

    @property
    def corrupted(self) -> xr.DataArray:
        """The metric of each corrupted run, over `sample`."""
        return xr.DataArray(
            self.data["corrupted"].values,
            dims="sample",
            coords={"sample": self.data["sample"]},
            name="corrupted",
        )

    @property
    def knows(self) -> bool:
        """Whether the model's own greedy continuation of the clean prompt is the answer."""
        return bool(self.settings["knows"])

    def token(self, role: str) -> int:
        """Index of the first token with this role.

        Raises:
            InputError: no token of the prompt has the role.

        Example:
            >>> trace.token("last subject token")
            2
        """
        roles = [str(found) for found in self.data["role"].values]
        if role not in roles:
            raise InputError(f"role: expected one of {', '.join(sorted(set(roles)))}, got {role!r}.")
        return roles.index(role)

    def indirect_effect(self, kind: str, *, reduce: Literal["mean"] | None = "mean") -> xr.DataArray:
        """Restored minus corrupted, paired by draw (Meng et al. 2022, section 2); in noising, minus clean.

        Args:
            reduce: "mean" averages over draws; None keeps the `sample` axis.

        Raises:
            InputError: the trace has no such kind, or an unknown `reduce`.

        Example:
            >>> trace.indirect_effect("mlp", reduce=None).dims
            ('sample', 'token', 'layer')
        """
        if kind not in self.kinds:
            raise InputError(f"kind: expected one of {', '.join(self.kinds)}, got {kind!r}.")
        values = self.data[kind].reset_coords(["clean", "corrupted"], drop=True)
        baseline = self.clean if self.settings.get("direction") == "noising" else self.corrupted
        return _reduced((values - baseline).rename(kind).assign_attrs(self.data[kind].attrs), reduce)

    def total_effect(self, *, reduce: Literal["mean"] | None = "mean") -> xr.DataArray:
        """Clean minus corrupted: what the corruption destroys.

        Args:
            reduce: "mean" averages over draws; None keeps the `sample` axis.

        Raises:
            InputError: an unknown `reduce`.

        Example:
            >>> float(trace.total_effect())
            0.71
        """
        return _reduced((self.clean - self.corrupted).rename("total_effect"), reduce)

    def interval(self, kind: str, *, level: float = 0.95, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
        """Percentile bootstrap interval over draws, (low, high), of every cell's mean indirect effect.

        One draw has no interval: then both are NaN.

        Raises:
            InputError: the trace has no such kind.
            RangeError: `level` is outside of (0, 1).

        Example:
            >>> low, high = trace.interval("mlp")
        """
        effects = self.indirect_effect(kind, reduce=None)
        low, high = interval(effects.values, level=level, seed=seed)
        mean = effects.mean("sample")
        if effects.sizes["sample"] == 1:
            low = high = np.full(mean.shape, np.nan)
        return mean.copy(data=low), mean.copy(data=high)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as netCDF, whole or not at all, with a checksum.

        Raises:
            FileError: the file cannot be written.

        Example:
            >>> trace.save("trace.nc")
        """
        with atomic_write(path) as part:
            self.data.assign_attrs({CHECKSUM: _checksum(self.data)}).to_netcdf(part, engine="h5netcdf")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a trace that `save` wrote.

        Raises:
            FileError: the file is missing, truncated, changed or not a trace.

        Example:
            >>> trace = Trace.load("trace.nc")
        """
        try:
            data = xr.load_dataset(os.fspath(path), engine="h5netcdf")
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise FileError(
                f"path: cannot read a trace from {os.fspath(path)!r} ({type(error).__name__}: {error}). "
                "The file is missing, truncated or not netCDF: trace again, or name the right file."
            ) from error
        absent = [name for name in COORDS if name not in data.coords]
        absent += [name for name in ("provenance", CHECKSUM) if name not in data.attrs]
        if absent or not all(_has_axes(variable) for variable in data.data_vars.values()):
            raise FileError(
                f"path: {os.fspath(path)!r} is netCDF, but not a trace of mechstyle "
                f"(it lacks {', '.join(absent) or 'the axes sample, token and layer or neuron'}). "
                "Name a file that Trace.save wrote."
            )
        written = data.attrs.pop(CHECKSUM)
        if written != _checksum(data):
            raise FileError(
                f"path: {os.fspath(path)!r} was changed after it was saved (its checksum differs). "
                "Trace again."
            )
        return cls(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self.data.identical(other.data)

    __hash__ = None  # type: ignore[assignment]  # a Dataset can be changed


def _reduced(effect: xr.DataArray, reduce: str | None) -> xr.DataArray:
    if reduce is None:
        return effect
    if reduce != "mean":
        raise InputError(f"reduce: expected 'mean' or None, got {reduce!r}.")
    return effect.mean("sample", keep_attrs=True)


def _has_axes(variable: xr.DataArray) -> bool:
    return variable.dims[:2] == DIMS and variable.dims[2:] in TRAILING_DIMS


def _checksum(data: xr.Dataset) -> str:
    """SHA-256 over the values, names and provenance of a trace, and the layer of its neurons."""
    digest = hashlib.sha256(_bytes(str(data.attrs.get("provenance"))))
    for name in sorted(str(name) for name in data.variables):
        values = data[name].values
        digest.update(_bytes(str(data[name].attrs.get("layer", ""))))
        text = values.dtype.kind not in "fiub"
        digest.update(_bytes(f"{name}{data[name].dims}{values.shape}"))
        digest.update(
            _bytes("\x00".join(map(str, values.ravel()))) if text else np.ascontiguousarray(values).tobytes()
        )
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    """UTF-8, also of the broken characters that a damaged file may hold."""
    return text.encode("utf-8", errors="surrogatepass")
