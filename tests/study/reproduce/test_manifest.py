"""Manifests: every one that ships can be carried out, and what is wrong in one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechstyle.errors import FileError, InputError, RangeError
from mechstyle.study.reproduce.editors import plan_editing
from mechstyle.study.reproduce.manifest import Manifest, manifest_names, read_manifest
from mechstyle.study.reproduce.published import published_rows

GOOD = """
name = "mine"
model = "gpt2-medium"
table = "rome-counterfact"
editor = "FT-L"

[data]
file = "counterfact.json"

[method]
name = "ft-l"
"""
NOT_HERE = {"KE", "MEND", "FT-W"}
"""Published editors that the library does not have, or has no published settings of."""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", manifest_names())
def test_every_manifest_that_ships_finds_its_row_and_its_settings(name: str) -> None:
    manifest = read_manifest(name)
    assert manifest.name == name
    assert manifest.expected == manifest.row.records
    plan = plan_editing(manifest, needs_text=False)
    assert (plan is None) == (manifest.editor == "base")
    if plan is not None:
        assert plan.job.layers or plan.spec.layers == "none"


def test_every_row_of_the_tables_has_a_manifest_but_those_of_missing_editors() -> None:
    rows = {row.label for row in published_rows() if row.editor not in NOT_HERE}
    assert {read_manifest(name).row.label for name in manifest_names()} == rows


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, GOOD))
    assert manifest.row.label == "rome-counterfact: gpt2-medium, FT-L"
    assert (manifest.expected, manifest.data.records, manifest.seed) == (7500, None, 0)
    assert manifest.scoring.reduce == "mean"
    assert manifest.method is not None
    assert manifest.method.applied == "alone"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mine"', 'nam = "mine"', r"has the keys name, model, .*; unknown: nam; missing: name"),
        (
            "[data]",
            "[data]\nrecord = 3",
            r"\[data\] has the keys file, records, .*; unknown: record; missing: none",
        ),
        ("[data]", "[data]\nrecords = 0", r"data.records: expected a whole number of at least 1, got 0"),
        (
            "[data]",
            '[data]\nreading = "all"',
            r"data.reading: expected one of 'as edits', 'true answers', got 'all'",
        ),
        (
            "[data]",
            '[data]\norganism = "organism-m"',
            r"expected either file, the name of a file, or organism",
        ),
        ('file = "counterfact.json"', 'organism = "organism-m"', r"say how many are drawn"),
        ("[data]", "[data]\ninvented = 1.5", r"data.invented: expected one of None, True, False, got 1.5"),
        ("[data]", "[data]\ninvented = true", r"data.invented: only an organism has invented subjects"),
        (
            "[method]",
            '[method]\napplied = "twice"',
            r"method.applied: expected one of 'alone', 'together', 'in turn'",
        ),
        ("[method]", "[method]\nlayers = 3", r"method.layers: expected a list of whole numbers, got 3"),
        ("[method]", "[method]\nsettings = 3", r"method.settings: expected a table, got int 3"),
        (
            "[method]",
            '[scoring]\nreduce = "max"\n[method]',
            r"scoring.reduce: expected one of 'mean', 'sum', got 'max'",
        ),
        (
            "[method]",
            "[tolerance]\nspeed = 1\n[method]",
            r"tolerance: 'speed' is no figure of rome-counterfact",
        ),
        (
            "[method]",
            "[tolerance]\nefficacy = -1\n[method]",
            r"tolerance.efficacy: expected a number of at least 0",
        ),
        ('editor = "FT-L"', 'editor = "FT-M"', r"has no row for 'gpt2-medium', 'FT-M'"),
        ('editor = "FT-L"', 'editor = "FT-L"\nseed = 1.5', r"seed: expected a whole number, got 1.5"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError, match=f"manifest .*mine.toml: .*{message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ('name = "rome2"', r"method.name: expected one of rome, memit, .*, got 'rome2'"),
        (
            'name = "rome"\nsettings = { ridge = 1.0 }',
            r"--ridge belongs to --method emmet, not to --method rome",
        ),
        (
            'name = "rome"\nsettings = { n_keys = 3 }',
            r"method.settings: expected some of legacy, .*, got 'n_keys'",
        ),
        (
            'name = "rome"\nsettings = { steps = [1] }',
            r"method.settings.steps: expected a number, text or truth",
        ),
        ('name = "neurons"\nlayers = [1]', r"method.layers: neurons finds its own places"),
        ('name = "cache"\napplied = "together"', r"method.applied: cache changes no weights"),
        ('name = "ft-kl"', r"method.name: ft-kl needs texts to preserve"),
        ('name = "memit"', r"'memit' has no published hyper-parameters for gpt2-medium"),
        ('name = "rome"', r"text: 'gpt2-medium' brings no texts of its own"),
    ],
)
def test_methods_that_cannot_be_carried_out_are_refused_without_a_model(
    tmp_path: Path, words: str, message: str
) -> None:
    manifest = read_manifest(written(tmp_path, GOOD.replace('name = "ft-l"', words)))
    with pytest.raises(InputError, match=message):
        plan_editing(manifest)


def test_numbers_out_of_range_are_refused_without_a_model(tmp_path: Path) -> None:
    words = 'name = "ft-l"\nsettings = { steps = 0 }'
    with pytest.raises(RangeError, match="steps"):
        plan_editing(read_manifest(written(tmp_path, GOOD.replace('name = "ft-l"', words))))


def test_settings_win_over_the_published_table(tmp_path: Path) -> None:
    words = 'name = "ft-l"\nsettings = { norm_constraint = 0.5 }'
    plan = plan_editing(read_manifest(written(tmp_path, GOOD.replace('name = "ft-l"', words))))
    assert plan is not None
    assert plan.job.layers == (0,)
    assert plan.settings()["options"] == {"norm_constraint": 0.5}
    assert plan.job.tuning.finetune_options(plan.job.known.finetune_options).norm_constraint == 0.5  # type: ignore[union-attr,arg-type]


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gpt3-rome is no file, .* there are: gpt-j-10000-base, "):
        read_manifest("gpt3-rome")
    with pytest.raises(FileError, match="not valid TOML"):
        read_manifest(written(tmp_path, "name = "))


def test_a_manifest_without_a_method_scores_the_model_as_it_is(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, GOOD.partition("[method]")[0]))
    assert isinstance(manifest, Manifest)
    assert plan_editing(manifest) is None
