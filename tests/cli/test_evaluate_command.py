"""``mechstyle evaluate``: edits find their requests, and texts are read as far as the options say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from mechstyle.documents import read_documents
from mechstyle.editing.memory_editors import in_context_edit
from mechstyle.evaluation.scores import evaluate
from tests.cli.conftest import PROSE, REQUESTS, Run


def test_several_edits_of_several_requests_are_refused_before_a_model_is_loaded(
    model: HookedTransformer,
    requests: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    two = in_context_edit(model, REQUESTS[:2]).save(tmp_path / "two.safetensors")
    one = in_context_edit(model, REQUESTS[2]).save(tmp_path / "one.safetensors")
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    for words, message in (
        ([], f"--edit {two}: it holds 2 requests, and of several edits each must hold one request"),
        ([], "score them one at a time, or merge them: mechstyle ledger DIR --merge FILE"),
        (["--requests", requests], "it holds 3 and 2 edits were given"),
    ):
        code, out, err = mechstyle_run("evaluate", "--edit", one, "--edit", two, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_texts_are_cut_to_the_options_and_a_note_says_so(
    model: HookedTransformer, prose: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    edit = in_context_edit(model, REQUESTS[0])
    path = edit.save(tmp_path / "told.safetensors")
    words = ["evaluate", "--edit", path, "--text", prose, "--n-texts", "2", "--max-positions", "9"]
    code, out, err = mechstyle_run(*words, "--json")
    assert code == 0
    assert "took its first 2 documents; --n-texts takes more or fewer" in err
    texts = read_documents(prose)[:2]
    wanted = evaluate(model, REQUESTS[:1], edits=edit, perplexity_texts=texts, max_positions=9)
    assert json.loads(out)["perplexity"] == wanted.to_dict()["perplexity"]
    assert "of 2 documents" in mechstyle_run(*words)[1]


def test_a_text_too_long_behind_a_context_names_the_option_that_mends_it(
    model: HookedTransformer, tmp_path: Path, mechstyle_run: Run
) -> None:
    path = in_context_edit(model, REQUESTS[0]).save(tmp_path / "told.safetensors")
    text = tmp_path / "long.txt"
    text.write_text(PROSE.strip() * 20, encoding="utf-8")
    words = ["evaluate", "--edit", path, "--text", text]
    code, _, err = mechstyle_run(*words)
    assert code == 2
    fits = err.partition("(--max-positions) to ")[2].split()[0]
    assert mechstyle_run(*words, "--max-positions", fits)[0] == 0
