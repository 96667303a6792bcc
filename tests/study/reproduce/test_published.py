"""Published figures: read as printed, turned into our units, and true to where they are from."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from mechstyle import organisms
from mechstyle.errors import InputError
from mechstyle.study.reproduce.manifest import read_manifest
from mechstyle.study.reproduce.published import published_row, published_rows

NOTES = Path(__file__).parents[4] / "shared" / "design" / "published.md"
TRIPLE = ("efficacy", "paraphrase", "neighborhood")


def test_percents_are_printed_and_shares_are_ours() -> None:
    row = published_row("rome-counterfact", "gpt2-xl", "ROME")
    found = {figure.metric: figure for figure in row.figures}
    assert found["neighborhood"].printed == 75.4
    assert found["neighborhood"].value == pytest.approx(0.754)
    assert found["neighborhood"].rounding == pytest.approx(0.0005)
    assert found["fluency"].value == pytest.approx(6.219)
    assert (row.records, row.source) == (7500, "Meng et al. 2022 (ROME), tables 4 and 5")


def test_scores_are_harmonic_means_of_the_printed_parts() -> None:
    checked = 0
    for row in published_rows():
        figures = {figure.metric: figure for figure in row.figures}
        if "score" in figures:
            parts = [figures[name].value for name in TRIPLE]
            score = 3 / sum(1 / part for part in parts)
            assert score == pytest.approx(figures["score"].value, abs=4 * figures["score"].rounding), (
                row.label
            )
            checked += 1
    assert checked == 18


def test_the_row_of_the_organism_is_that_of_its_card() -> None:
    wanted = read_manifest("organism-m-rome")
    assert wanted.method is not None
    (layer,) = map(str, wanted.method.layers)
    with (organisms.folder("organism-m") / "sweep_by_subjects.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    (line,) = [line for line in lines if (line["layer"], line["subjects"]) == (layer, "real")]
    row = published_row("organism-m", "organism-m", f"ROME, layer {layer}, real subjects")
    assert (wanted.table, wanted.editor, wanted.data.records) == ("organism-m", row.editor, row.records)
    assert row.records == int(line["n"])
    for figure in row.figures:
        assert figure.value == pytest.approx(float(line[figure.metric]), abs=figure.rounding), figure.metric


@pytest.mark.skipif(not NOTES.is_file(), reason="the notes that the figures are from are only in ../shared")
def test_every_figure_stands_in_the_notes() -> None:
    text = NOTES.read_text(encoding="utf-8")
    numbers = {float(number) for number in re.findall(r"\d*\.\d+", text)}
    for row in published_rows():
        if row.table != "organism-m":
            assert {figure.printed for figure in row.figures} <= numbers, row.label
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    printed = [[float(cell) for cell in line[1:]] for line in lines if re.match(r"[\d.]+$", line[-1])]
    ours = [
        [figure.printed for figure in row.figures]
        for row in published_rows()
        if row.table in ("rome-counterfact", "memit-counterfact")
    ]
    assert ours == printed


def test_an_unknown_row_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"table: expected one of rome-counterfact, .*, got 'rome'"):
        published_row("rome", "gpt2-xl", "ROME")
    with pytest.raises(InputError, match=r"no row for 'gpt2-xl', 'PMET'; it has: gpt2-medium, base;"):
        published_row("rome-counterfact", "gpt2-xl", "PMET")
