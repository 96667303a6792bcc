"""What edits do to one another, from factors alone, against plain products of the whole changes."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import mechstyle as ms
from mechstyle.editing.interactions import change_norms, interactions
from mechstyle.errors import InputError

SHAPES = {"a": (7, 5), "b": (4, 6), "bias": (1, 5)}


def edit_of(seed: int, *names: str, keys: bool = True) -> list[ms.WeightEdit]:
    """Changes of rank 1 to 3, with two keys each; a name may come twice."""
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    found = []
    for place, name in enumerate(names):
        rows, columns, rank = *SHAPES[name], 1 + (seed + place) % 3
        found.append(
            ms.WeightEdit(name, random(rows, rank), random(rank, columns), random(2, rows) if keys else None)
        )
    return found


def whole(edits: list[ms.WeightEdit]) -> Tensor:
    """All that an edit changes, as one vector."""
    parts = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES.values()]
    for edit in edits:
        parts[list(SHAPES).index(edit.parameter)] += edit.delta()
    return torch.cat([part.reshape(-1) for part in parts])


def moved(one: list[ms.WeightEdit], other: list[ms.WeightEdit]) -> float:
    """How far the second edit moves the outputs at the keys of the first."""
    total = 0.0
    for name, shape in SHAPES.items():
        change = torch.zeros(shape, dtype=torch.float64)
        for edit in other:
            change += edit.delta() if edit.parameter == name else 0
        for edit in one:
            if edit.parameter == name and edit.keys is not None:
                total += float((edit.keys @ change).square().sum())
    return math.sqrt(total)


EDITS = (edit_of(0, "a"), edit_of(1, "a", "b"), edit_of(2, "a", "a", "bias"), edit_of(3, "b"))


def test_every_figure_is_that_of_the_whole_changes() -> None:
    frame = interactions(EDITS)
    assert len(frame) == len(EDITS) * (len(EDITS) - 1)
    for row in frame.itertuples():
        one, other = EDITS[row.i], EDITS[row.j]
        first, second = whole(one), whole(other)
        cosine = float(first @ second / (first.norm() * second.norm()))
        assert row.cosine == pytest.approx(cosine, abs=1e-12)
        assert row.disturbance == pytest.approx(moved(one, other) / moved(one, one), rel=1e-12)
        assert (row.norm_i, row.norm_j) == pytest.approx((float(first.norm()), float(second.norm())))
        pairs = [
            abs(float(torch.nn.functional.cosine_similarity(key, foreign, dim=0)))
            for mine in one
            for yours in other
            if mine.parameter == yours.parameter and mine.keys is not None and yours.keys is not None
            for key in mine.keys
            for foreign in yours.keys
        ]
        if pairs:
            assert row.key_cosine == pytest.approx(max(pairs))
        else:
            assert math.isnan(row.key_cosine)


def test_edits_of_different_parameters_do_not_meet() -> None:
    row = interactions([EDITS[0], EDITS[3]]).iloc[0]
    assert (row.cosine, row.disturbance) == (0, 0)
    assert math.isnan(row.key_cosine)


def test_the_same_edit_twice_meets_itself_fully_and_its_opposite_too() -> None:
    opposite = [edit.scaled(-2.0) for edit in EDITS[1]]
    frame = interactions([EDITS[1], EDITS[1], opposite], [4, 7, 9])
    assert frame[["i", "j"]].values.tolist() == [[4, 7], [4, 9], [7, 4], [7, 9], [9, 4], [9, 7]]
    assert frame["cosine"].tolist() == pytest.approx([1, -1, 1, -1, -1, -1])
    assert frame["disturbance"].tolist() == pytest.approx([1, 2, 1, 2, 0.5, 0.5])
    assert frame["key_cosine"].tolist() == pytest.approx([1] * 6)


def test_without_keys_only_the_changes_are_compared() -> None:
    frame = interactions([edit_of(0, "a", keys=False), EDITS[1]])
    assert frame["disturbance"].isna().tolist() == [True, False]
    assert frame["key_cosine"].isna().all()
    assert frame["cosine"].notna().all()


def test_an_edit_that_changes_nothing_has_no_direction() -> None:
    nothing = [ms.WeightEdit("a", torch.zeros(7, 1), torch.ones(1, 5), torch.ones(1, 7))]
    frame = interactions([nothing, EDITS[0]])
    assert frame["cosine"].isna().all()
    assert frame["disturbance"].isna().tolist() == [True, False]
    assert frame["disturbance"][1] == 0
    assert change_norms(nothing) == {"a": 0.0}


def test_norms_are_those_of_the_whole_change_of_each_parameter() -> None:
    total = EDITS[2][0].delta() + EDITS[2][1].delta()
    norms = change_norms(EDITS[2])
    assert norms == pytest.approx({"a": float(total.norm()), "bias": float(EDITS[2][2].delta().norm())})


def test_no_change_is_multiplied_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ms.WeightEdit) -> Tensor:
        raise AssertionError("a dense change")

    monkeypatch.setattr(ms.WeightEdit, "delta", refuse)
    assert len(interactions(EDITS)) == 12


def test_hundreds_of_edits_are_compared_within_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right, keys = (torch.randn(300, size, generator=generator) for size in (768, 192, 768))
    edits = [[ms.WeightEdit("a", left[n, :, None], right[n, None], keys[n, None])] for n in range(300)]
    start = time.process_time()
    frame = interactions(edits)
    assert time.process_time() - start < 2.5
    assert len(frame) == 300 * 299
    row = frame.iloc[-1]
    assert (row.i, row.j) == (299, 298)
    wanted = torch.nn.functional.cosine_similarity(keys[299].double(), keys[298].double(), dim=0)
    assert row.key_cosine == pytest.approx(abs(float(wanted)))


def test_parts_that_are_multiplied_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = interactions(EDITS)
    monkeypatch.setattr("mechstyle.editing.interactions._WIDTH", 1)
    pd.testing.assert_frame_equal(interactions(EDITS), whole)


def test_few_edits_give_an_empty_table_and_numbers_must_fit() -> None:
    columns = ["i", "j", "cosine", "key_cosine", "disturbance", "norm_i", "norm_j"]
    for few in ([], [EDITS[0]]):
        frame = interactions(few)
        assert isinstance(frame, pd.DataFrame)
        assert frame.empty
        assert list(frame) == columns
    with pytest.raises(InputError, match="numbers: expected one for each of 4 edits, got 1"):
        interactions(EDITS, [1])


def test_keys_belong_to_the_rows_of_the_change_and_are_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected keys \[key, 7\], got \[1, 5\]"):
        ms.WeightEdit("a", torch.ones(7, 1), torch.ones(1, 5), torch.ones(1, 5))
    with pytest.raises(InputError, match="keys holds NaN"):
        ms.WeightEdit("a", torch.ones(7, 1), torch.ones(1, 5), torch.full((1, 7), torch.nan))
    mixed = (*edit_of(0, "a"), *edit_of(1, "b", keys=False))
    loaded = ms.load_edit(ms.EditSet(mixed, "f" * 64).save(tmp_path / "edit.safetensors"))
    first, second = loaded.edits
    assert first.keys is not None
    assert mixed[0].keys is not None
    assert torch.equal(first.keys, mixed[0].keys)
    assert first.keys.dtype == torch.float64
    assert second.keys is None
    assert loaded.scaled(2.0).edits[0].keys is first.keys or torch.equal(
        loaded.scaled(2.0).edits[0].keys, first.keys
    )
