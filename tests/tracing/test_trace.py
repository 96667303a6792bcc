"""Traces on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from transformer_lens import HookedTransformer

from mechstyle.errors import FileError, InputError
from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace


@pytest.fixture(scope="module")
def trace(_loaded_tiny: HookedTransformer) -> Trace:
    fact = Fact("The city of {} is in", "Zürich 東京", " Switzerland")
    return causal_trace(_loaded_tiny, fact, samples=3, prepend_bos=True)


def test_a_loaded_trace_equals_the_saved_one(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.nc"
    trace.save(path)
    loaded = Trace.load(path)
    assert loaded == trace
    assert loaded.provenance == trace.provenance
    assert loaded.kinds == trace.kinds
    assert [str(text) for text in loaded.data["token_str"].values] == list(trace.data["token_str"].values)
    assert loaded.corrupted.identical(trace.corrupted)
    loaded.save(path)
    assert Trace.load(path) == trace


def test_traces_of_other_values_or_settings_are_not_equal(trace: Trace) -> None:
    assert Trace(trace.data.assign(mlp=trace.data["mlp"] + 1)) != trace
    assert Trace(trace.data.assign_attrs(provenance="{}")) != trace
    assert trace != 3


def test_a_truncated_file_is_refused_at_every_length(trace: Trace, tmp_path: Path) -> None:
    whole = tmp_path / "whole.nc"
    trace.save(whole)
    content = whole.read_bytes()
    for length in (0, 10, 100, len(content) // 2, len(content) - 1):
        part = tmp_path / f"{length}.nc"
        part.write_bytes(content[:length])
        with pytest.raises(FileError, match="cannot read a trace from"):
            Trace.load(part)


def test_a_changed_file_is_refused(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.nc"
    trace.save(path)
    stored = xr.load_dataset(path, engine="h5netcdf")
    stored["mlp"][0, 0, 0] += 1e-9
    stored.to_netcdf(tmp_path / "changed.nc", engine="h5netcdf")
    with pytest.raises(FileError, match="was changed after it was saved"):
        Trace.load(tmp_path / "changed.nc")


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.nc"
    xr.Dataset({"x": ("time", np.arange(3))}).to_netcdf(foreign, engine="h5netcdf")
    with pytest.raises(FileError, match="is netCDF, but not a trace of mechstyle"):
        Trace.load(foreign)
    (tmp_path / "text.nc").write_text("hello")
    for name in ("text.nc", "missing.nc"):
        with pytest.raises(FileError, match="cannot read a trace from"):
            Trace.load(tmp_path / name)


def test_a_failed_save_leaves_the_old_file(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.nc"
    trace.save(path)
    before = path.read_bytes()
    broken = Trace(trace.data.assign_attrs(bad=object()))
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["trace.nc"]
    with pytest.raises(FileError, match="does not exist"):
        trace.save(tmp_path / "nowhere" / "trace.nc")


def test_intervals_hold_the_mean_effect_of_every_cell(trace: Trace) -> None:
    low, high = trace.interval("mlp")
    mean = trace.indirect_effect("mlp")
    assert low.dims == mean.dims == ("token", "layer")
    assert bool(((low <= mean + 1e-12) & (mean <= high + 1e-12)).all())


def test_one_draw_has_no_interval(trace: Trace) -> None:
    one = Trace(trace.data.isel(sample=[0]))
    for ends in one.interval("mlp"):
        assert ends.dims == ("token", "layer")
        assert bool(ends.isnull().all())


def test_unknown_kinds_roles_and_reductions_are_named(trace: Trace) -> None:
    with pytest.raises(InputError, match="kind: expected one of resid, mlp, attn, got 'head'"):
        trace.indirect_effect("head")
    with pytest.raises(InputError, match="reduce: expected 'mean' or None, got 'max'"):
        trace.total_effect(reduce="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="role: expected one of"):
        trace.token("verb")
