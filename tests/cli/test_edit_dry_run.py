"""``mechstyle edit --dry-run``: it tells what would be written, checks all, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.datasets import write_requests
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.loading import load_edit
from mechstyle.editing.memory_editors import edit_cache
from mechstyle.facts import EditRequest, Fact
from tests.cli.conftest import REQUESTS, Run


@pytest.fixture(autouse=True)
def _nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("search_targets", "write_in_layers"):
        monkeypatch.setattr(f"mechstyle.editing.writing.{name}", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setattr("mechstyle.editing.finetune.tune", lambda *_, **__: pytest.fail("trained"))


@pytest.mark.parametrize("place", [[], ["--out", "edit.safetensors"], ["--ledger", "edits"]])
def test_a_dry_run_tells_all_and_writes_nothing(
    place: list[str], requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechstyle_run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["edit", "--method", "memit", "--requests", requests, "--layers", "1,0", "--batch-size", "2"]
    code, out, err = mechstyle_run(*words, *place, "--dry-run", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["parameters"] == {"blocks.0.mlp.W_out": [128, 32], "blocks.1.mlp.W_out": [128, 32]}
    assert (said["n_requests"], said["batches"], said["layers"]) == (3, 2, [0, 1])
    assert [row["new_target"] for row in said["requests"]] == [one.new_target for one in REQUESTS]
    assert [row["last_subject_token"] for row in said["requests"]] == [" Davis", "Paris", " Evans"]
    assert all("".join(row["new_target_tokens"]) == row["new_target"] for row in said["requests"])
    assert said["requests"][0]["phrasings"] == 2
    assert said["contexts"][0] == "{}"
    assert len(said["contexts"]) == 21
    assert said["ledger_entries"] == (0 if "--ledger" in place else None)
    assert list(tmp_path.iterdir()) == [requests]


def test_the_lines_of_a_dry_run_name_requests_tokens_and_size(requests: Path, mechstyle_run: Run) -> None:
    words = ["edit", "--method", "emmet", "--requests", requests, "--layers", "2"]
    code, out, _ = mechstyle_run(*words, "--dry-run")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "emmet in layer 2: nothing is written (--dry-run)"
    assert "blocks.2.mlp.W_out [128, 32]" in lines
    assert "  'Miles Davis plays the' -> ' guitar'; its subject ends with ' Davis'" in lines
    assert "the last layer is among them: a change there cannot reach the answer" in lines
    assert "second moments: to be measured or looked up" in lines
    assert lines[-1].startswith("about ")


def test_what_the_model_says_already_is_counted(
    organism: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechstyle_run: Run
) -> None:
    monkeypatch.setattr("mechstyle.models.load_model", lambda _: organism)
    (request,), counts = organisms.requests("organism-m", n=1, seed=0), []
    fact, new, path = request.fact, request.new_target, tmp_path / "r.jsonl"
    other = fact.with_target(" nonsense")
    for asked in (EditRequest(fact, new), EditRequest(other, fact.target), EditRequest(other, new)):
        write_requests(path, [asked])
        code, out, _ = mechstyle_run(
            "edit", "--method", "in-context", "--requests", path, "--dry-run", "--json"
        )
        assert code == 0
        checks = json.loads(out)["checks"]
        counts.append((checks["known"], checks["said_already"]))
    assert counts == [(1, 0), (0, 1), (0, 0)]


def test_requests_that_share_a_key_are_told(tmp_path: Path, mechstyle_run: Run) -> None:
    path = tmp_path / "r.jsonl"
    facts = (Fact("{} plays the", "Miles Davis", " trumpet"), Fact("{} was born in", "Miles Davis", " Rome"))
    write_requests(path, [EditRequest(fact, " France") for fact in facts])
    code, out, _ = mechstyle_run(
        "edit", "--method", "memit", "--requests", path, "--layers", "0", "--dry-run"
    )
    assert code == 0
    assert "requests 1, 2 share a key: one layer cannot tell them apart" in out


def test_at_most_five_groups_of_shared_keys_and_five_of_each_are_written_out(
    tmp_path: Path, mechstyle_run: Run
) -> None:
    path = tmp_path / "r.jsonl"
    templates = [f"{{}} {word} the" for word in ("plays", "is", "was", "day", "city", "long")]
    subjects = ("Miles Davis", "Paris", "Bill Evans", "Chet Baker", "Zürich", "Rome", "Italy")
    write_requests(
        path,
        [EditRequest(Fact(one, who, " trumpet"), " guitar") for who in subjects for one in templates],
    )
    words = ["edit", "--method", "memit", "--requests", path, "--layers", "0", "--dry-run"]
    code, out, _ = mechstyle_run(*words)
    assert code == 0
    told = [line for line in out.splitlines() if "share a key" in line]
    assert len(told) == 5
    assert told[0].startswith("requests 1, 2, 3, 4, 5 and 1 more share a key")
    assert "and 2 more such groups" in out.splitlines()


def test_without_layers_a_note_names_options_and_no_python(requests: Path, mechstyle_run: Run) -> None:
    code, _, err = mechstyle_run("edit", "--method", "memit", "--requests", requests, "--dry-run")
    assert code == 0
    assert "--layers" in err
    assert "--sweep N" in err
    assert "requests=" not in err


def test_batches_of_a_ledger_may_contradict_each_other_and_one_batch_may_not(
    tmp_path: Path, mechstyle_run: Run
) -> None:
    path, fact = tmp_path / "r.jsonl", Fact("{} plays the", "Miles Davis", " trumpet")
    asked = [REQUESTS[1], *(EditRequest(fact, new) for new in (" guitar", " piano"))]
    write_requests(path, asked)
    words = ["--method", "memit", "--requests", path, "--layers", "0"]
    into = ["--ledger", tmp_path / "edits", "--batch-size"]
    assert mechstyle_run("edit", *words, *into, "1", "--dry-run")[0] == 0
    assert "requests[2]: wants ' piano'" in fails(mechstyle_run, *words)
    assert "requests[2]: wants ' piano'" in fails(mechstyle_run, *words, *into, "3")
    write_requests(path, [asked[0], REQUESTS[2], *asked[1:]])
    said = fails(mechstyle_run, *words, *into, "2")
    assert "batch 2, from requests[2] on: requests[1]: wants ' piano' after 'Miles Davis plays the'" in said


def test_a_ledger_that_is_there_is_read_and_left_alone(
    model: HookedTransformer, requests: Path, moments: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    folder = tmp_path / "edits"
    with Ledger.open(model, folder):
        pass
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["--ledger", folder, "--layers", "0", "--covariance", moments, "--dry-run"]
    code, out, _ = mechstyle_run("edit", "--method", "rome", "--requests", requests, *words)
    assert code == 0
    assert "3 requests in 3 batches" in out
    assert out.splitlines()[-1] == f"into {folder}, which has 0 entries"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def fails(mechstyle_run: Run, *words: object) -> str:
    code, out, err = mechstyle_run("edit", *words, "--dry-run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err


def test_a_dry_run_finds_what_is_wrong(
    model: HookedTransformer, moments: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    path = tmp_path / "r.jsonl"
    fact = Fact("{} plays the", "Miles Davis", " trumpet")
    memit = ["--method", "memit", "--requests", path, "--layers", "0"]

    write_requests(path, [EditRequest(fact, " guitar"), EditRequest(fact, " piano")])
    assert "requests[1]: wants ' piano' after 'Miles Davis plays the'" in fails(mechstyle_run, *memit)

    write_requests(path, [EditRequest(fact, " guitar"), EditRequest(Fact("{} is", "Paris", " a"), " b" * 80)])
    assert "requests[1]: " in fails(mechstyle_run, *memit)

    write_requests(path, [EditRequest(fact, " guitar")])
    assert "--layers" in fails(mechstyle_run, *memit[:-1], "7")
    foreign = Covariance(dict(Covariance.load(moments)), 5, {"fingerprint": "0" * 64})
    foreign.save(tmp_path / "foreign.safetensors")
    said = fails(mechstyle_run, *memit, "--covariance", tmp_path / "foreign.safetensors")
    assert "got one of another (000000000000)" in said
    assert "expected layer 2 in it" in fails(mechstyle_run, *memit[:-1], "2", "--covariance", moments)

    path.write_text('{"surprise": 1}\n')
    assert "not a kind that is understood" in fails(mechstyle_run, *memit)
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "notes.txt").write_text("mine")
    write_requests(path, [EditRequest(fact, " guitar")])
    said = fails(mechstyle_run, *memit, "--ledger", tmp_path / "edits")
    assert f"--ledger {tmp_path / 'edits'}: " in said
    assert "holds no ledger.json" in said


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("memit", ["--layers", "0,1", "--steps", "2", "--covariance"]),
        ("ft", ["--layers", "1", "--steps", "1", "--parameters", "mlp.W_in,mlp.b_in"]),
        ("cache", ["--layers", "1", "--threshold", "0.9"]),
    ],
)
def test_the_size_is_right_within_a_third(
    method: str,
    words: list[str],
    requests: Path,
    moments: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    words = ["edit", "--method", method, "--requests", str(requests), *words]
    words += [str(moments)] if words[-1] == "--covariance" else []
    told = json.loads(mechstyle_run(*words, "--dry-run", "--json")[1])["estimated_bytes"]
    monkeypatch.undo()
    out = tmp_path / "edit.safetensors"
    assert mechstyle_run(*words, "--out", out)[0] == 0
    assert load_edit(out).requests == tuple(REQUESTS)
    assert out.stat().st_size == pytest.approx(told, rel=1 / 3)


def test_an_edit_beside_the_weights_can_be_scored(
    model: HookedTransformer, requests: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    edit_cache(model, REQUESTS).save(tmp_path / "cache.safetensors")
    code, out, _ = mechstyle_run("evaluate", "--edit", tmp_path / "cache.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["summary"]["after"]["efficacy"]["value"] == 1.0
