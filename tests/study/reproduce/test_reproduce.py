"""Manifests carried out: the same numbers as by hand, whatever happened in between."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from transformer_lens import HookedTransformer

from mechstyle.datasets import read_counterfact
from mechstyle.editing.finetune import finetune
from mechstyle.editing.finetune_options import FinetuneOptions
from mechstyle.editing.ledger import Ledger
from mechstyle.errors import InputError, ModelError, NonFiniteError, RangeError, WorkError
from mechstyle.evaluation.scores import evaluate
from mechstyle.models import fingerprint
from mechstyle.study.reproduce import loop
from mechstyle.study.reproduce.manifest import Manifest
from mechstyle.study.reproduce.run import reproduce
from tests.study.reproduce.conftest import FACTS, MakeManifest

COUNTERFACT = FACTS / "counterfact.json"
# The row of zsRE has no figures of written texts, which take the longest.
TUNED = '[method]\nname = "ft"\nlayers = [1]\nsettings = { steps = 3, lr = 0.01 }\n'
TRIPLE = ["efficacy", "paraphrase", "neighborhood"]
OPTIONS = FinetuneOptions(steps=3, lr=0.01)


def ours(manifest: Manifest, model: HookedTransformer, **given: object) -> pd.DataFrame:
    found = reproduce(manifest, model=model, data=COUNTERFACT, **given)  # type: ignore[arg-type]
    return found.table.set_index("metric")


def test_without_a_method_the_row_is_that_of_the_model(
    roomy: HookedTransformer, manifest: MakeManifest
) -> None:
    table = ours(manifest("records = 2\n"), roomy)
    summary = evaluate(roomy, read_counterfact(COUNTERFACT)[:2]).summary()
    for name in (*TRIPLE, "score"):
        assert table.loc[name, "ours"] == pytest.approx(summary.loc[name, "value"], abs=1e-9)
        assert table.loc[name, "low"] == pytest.approx(summary.loc[name, "low"], abs=1e-9)
    assert 0 < table.loc["fluency", "ours"] < 10
    assert table.loc["consistency", "verdict"] == "not measured", "the records bring no reference texts"


def test_each_request_is_scored_under_its_own_edit_alone(
    roomy: HookedTransformer, manifest: MakeManifest
) -> None:
    before, requests = fingerprint(roomy), read_counterfact(COUNTERFACT)[:3]
    found = reproduce(manifest(TUNED, table="rome-zsre"), model=roomy, data=COUNTERFACT, limit=3)
    edits = [finetune(roomy, [one], layers=[1], options=OPTIONS) for one in requests]
    scores = evaluate(roomy, requests, edits=edits)
    rows, wanted = found.tables["scores"], scores.frame
    assert list(rows["prompt"]) == list(wanted["prompt"])
    assert list(rows["p_new"]) == pytest.approx(list(wanted["p_new"]), rel=1e-4)
    plain = scores.rows[scores.rows["stage"] == "before"]
    assert list(rows["p_new"]) != pytest.approx(list(plain["p_new"]), rel=1e-2), "the edits show"
    assert fingerprint(roomy) == before


@pytest.mark.parametrize(("applied", "size"), [("together", None), ("in turn", 1)])
def test_edits_of_one_model_are_those_of_a_ledger(
    applied: str, size: int | None, roomy: HookedTransformer, manifest: MakeManifest, tmp_path: Path
) -> None:
    before, requests = fingerprint(roomy), read_counterfact(COUNTERFACT)[:3]
    wanted = manifest(f'{TUNED}applied = "{applied}"\n', table="rome-zsre")
    found = reproduce(wanted, model=roomy, data=COUNTERFACT, limit=3, folder=tmp_path)
    with Ledger(roomy) as ledger:
        ledger.write(
            lambda model, some: finetune(model, some, layers=[1], options=OPTIONS), requests, batch_size=size
        )
        rows = evaluate(roomy, requests).rows
    assert list(found.tables["scores"]["p_new"]) == pytest.approx(list(rows["p_new"]), rel=1e-4)
    assert fingerprint(roomy) == before
    again = reproduce(wanted, model=roomy, data=COUNTERFACT, limit=3, folder=tmp_path)
    pd.testing.assert_frame_equal(again.table, found.table)


def test_token_accuracy_is_the_row_of_zsre(roomy: HookedTransformer, manifest: MakeManifest) -> None:
    wanted = manifest('reading = "true answers"\n', table="rome-zsre", file="zsre_eval.json")
    found = reproduce(wanted, model=roomy, data=FACTS / "zsre_eval.json")
    assert list(found.table["metric"]) == TRIPLE
    assert list(found.tables) == ["scores"], "texts are written only where the row has a figure of them"
    rows = found.tables["scores"].set_index("kind")
    assert found.table["ours"][2] == pytest.approx(rows.loc["neighborhood", "accuracy_true"].mean())


def test_neighbours_are_asked_plainly_and_behind_the_edit(
    roomy: HookedTransformer, manifest: MakeManifest
) -> None:
    wanted = manifest("edit_in_front = true\n", table="counterfact-plus")
    found = reproduce(wanted, model=roomy, data=COUNTERFACT, limit=2)
    assert list(found.table["metric"]) == ["neighborhood", "neighborhood+"]
    rows = found.tables["questions"]
    rows = rows[rows["kind"] == "neighborhood+"]
    assert set(rows["prompt"].str.contains(". ", regex=False)) == {True}
    assert found.table["ours"][1] == pytest.approx(rows.groupby("request")["success"].mean().mean())
    plain = reproduce(manifest(table="counterfact-plus"), model=roomy, data=COUNTERFACT, limit=2).table
    assert list(plain["verdict"])[1] == "not measured"


def test_a_broken_run_goes_on_with_what_is_missing(
    roomy: HookedTransformer, manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reproduce(manifest(TUNED, table="rome-zsre"), model=roomy, data=COUNTERFACT)
    edited: list[str] = []
    real, stop = loop.Editing.__call__, [2]

    def counted(self: loop.Editing, requests: list) -> object:  # type: ignore[type-arg]
        if len(edited) == stop[0]:
            raise KeyboardInterrupt
        edited.append(requests[0].fact.subject)
        return real(self, requests)

    monkeypatch.setattr(loop.Editing, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(manifest(TUNED, table="rome-zsre"), model=roomy, data=COUNTERFACT, folder=tmp_path)
    assert len(list((tmp_path / "requests").iterdir())) == 2
    stop[0] = 5
    found = reproduce(manifest(TUNED, table="rome-zsre"), model=roomy, data=COUNTERFACT, folder=tmp_path)
    assert edited == [one.fact.subject for one in read_counterfact(COUNTERFACT)], "each once"
    pd.testing.assert_frame_equal(found.table, whole.table)
    pd.testing.assert_frame_equal(found.tables["scores"], whole.tables["scores"])
    assert json.loads((tmp_path / "result.json").read_text())["measured"] == 5


def test_rows_of_other_settings_and_damaged_ones_are_made_anew(
    roomy: HookedTransformer, manifest: MakeManifest, tmp_path: Path
) -> None:
    first = reproduce(
        manifest(TUNED, table="rome-zsre"), model=roomy, data=COUNTERFACT, limit=2, folder=tmp_path
    )
    other = manifest(TUNED.replace("steps = 3", "steps = 4"), table="rome-zsre")
    wanted = reproduce(other, model=roomy, data=COUNTERFACT, limit=2)
    assert list(wanted.tables["scores"]["p_new"]) != list(first.tables["scores"]["p_new"])
    (tmp_path / "requests" / "000001.json").write_text('{"key": ', encoding="utf-8")
    found = reproduce(other, model=roomy, data=COUNTERFACT, limit=2, folder=tmp_path)
    pd.testing.assert_frame_equal(found.tables["scores"], wanted.tables["scores"])


def test_a_request_whose_edit_fails_is_left_out_and_counted(
    roomy: HookedTransformer, manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.Editing.__call__

    def failing(self: loop.Editing, requests: list) -> object:  # type: ignore[type-arg]
        if requests[0].fact.subject == "Danielle Darrieux":
            raise WorkError("the search diverged")
        return real(self, requests)

    monkeypatch.setattr(loop.Editing, "__call__", failing)
    found = reproduce(
        manifest(TUNED + "[tolerance]\nefficacy = 1.0\n"), model=roomy, data=COUNTERFACT, limit=2
    )
    assert (found.measured, dict(found.failures)) == (1, {0: "the search diverged"})
    assert set(found.tables["scores"]["request"]) == {1}
    assert "1 of 7,500; 1 gave no numbers" in found.to_text()


def test_what_is_wrong_is_told_before_a_model_is_loaded(
    manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"data: mine needs the file counterfact.json \(all of it\)"):
        reproduce(manifest())
    with pytest.raises(InputError, match=r"its first 7,500 records\); name its path"):
        reproduce("gpt2-xl-rome")
    with pytest.raises(InputError, match="organism-m was taught; leave it out"):
        reproduce("organism-m-rome", data=COUNTERFACT)
    with pytest.raises(InputError, match="is not zsRE of MEND"):
        reproduce(manifest('reading = "true answers"\n'), data=COUNTERFACT)
    with pytest.raises(InputError, match="'gpt2-xl' brings no texts of its own"):
        reproduce("gpt2-xl-rome", data=COUNTERFACT)
    with pytest.raises(RangeError, match="limit"):
        reproduce(manifest(), data=COUNTERFACT, limit=0)


def test_a_model_of_another_shape_than_the_published_settings_is_refused(roomy: HookedTransformer) -> None:
    with pytest.raises(
        ModelError, match=r"those of gpt2-xl, of 48 layers and d_mlp 6400; got one of 3 layers"
    ):
        reproduce("gpt2-xl-ft-l", data=COUNTERFACT, model=roomy)


def test_a_layer_that_the_model_has_not_is_refused(roomy: HookedTransformer, manifest: MakeManifest) -> None:
    with pytest.raises(RangeError, match="method.layers"):
        reproduce(manifest(TUNED.replace("[1]", "[3]")), data=COUNTERFACT, model=roomy)


def test_the_result_says_where_it_is_from(
    roomy: HookedTransformer, manifest: MakeManifest, tmp_path: Path
) -> None:
    reproduce(manifest(TUNED), model=roomy, data=COUNTERFACT, limit=1, folder=tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    settings = result["provenance"]["settings"]
    assert result["provenance"]["fingerprint"] == fingerprint(roomy)
    assert settings["manifest"]["name"] == "mine"
    assert settings["editing"]["options"] == {"steps": 3, "lr": 0.01}
    assert len(settings["data"]["sha256"]) == 64
    assert (result["measured"], result["expected"]) == (1, 7500)
    assert [line["metric"] for line in result["table"]][:2] == ["score", "efficacy"]
    assert result["table"][0]["low"] is None, "one request has no interval"
    assert len(pd.read_csv(tmp_path / "table.csv")) == 6


def test_a_request_without_finite_numbers_does_not_stop_edits_of_one_model(
    roomy: HookedTransformer, manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop._read

    def failing(readers: object, edit: object, indices: Sequence[int]) -> object:
        if 1 in indices:
            raise NonFiniteError("the logits are nan")
        return real(readers, edit, indices)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_read", failing)
    wanted = manifest(f'{TUNED}applied = "together"\n', table="rome-zsre")
    found = reproduce(wanted, model=roomy, data=COUNTERFACT, limit=3)
    assert (found.measured, dict(found.failures)) == (2, {1: "the logits are nan"})
    assert set(found.tables["scores"]["request"]) == {0, 2}
