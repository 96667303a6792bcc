"""The fixed set of reference subjects, sigma over it, and the cache of that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.tokens import encode
from mechstyle.tracing import reference as module
from mechstyle.tracing.reference import Reference, embedding_sigma, reference_sigma

PACKAGED_SHA256 = "736ef0fd459409c6078965369d5b03c0b37e13cb8269b176168fd6e7e3e81da2"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MECHSTYLE_CACHE", str(tmp_path))
    return tmp_path / "sigma"


def test_sigma_is_the_spread_of_the_subjects_embedding_entries(tiny_model: HookedTransformer) -> None:
    subjects = ["Miles Davis", "Paris", "Zürich"]
    rows = [tiny_model.W_E[int(token)] for subject in subjects for token in encode(tiny_model, subject).ids]
    expected = torch.stack(rows).detach().double()
    expected = (expected - expected.mean()).square().mean().sqrt()
    assert embedding_sigma(tiny_model, subjects) == pytest.approx(float(expected), rel=1e-9)


def test_every_model_is_measured_over_the_same_packaged_subjects(
    tiny_model: HookedTransformer, organism: HookedTransformer, cache: Path
) -> None:
    subjects = organisms.reference_subjects("organism-m")
    for model in (tiny_model, organism):
        sigma, source = reference_sigma(model)
        assert sigma == embedding_sigma(model, subjects)
        assert source["sigma_source"] == "200 packaged reference subjects"
        n_tokens = sum(len(encode(model, subject, prepend_bos=False)) for subject in subjects)
        assert source["reference"] == {
            "list": "packaged", "n_subjects": 200, "n_tokens": n_tokens, "sha256": PACKAGED_SHA256,
        }  # fmt: skip


def test_a_list_of_ones_own_is_told_apart_by_its_hash(tiny_model: HookedTransformer, cache: Path) -> None:
    (first, one), (second, other) = (
        reference_sigma(tiny_model, subjects) for subjects in (["Paris"], ["Rome", "Paris"])
    )
    assert first == embedding_sigma(tiny_model, ["Paris"])
    assert second == embedding_sigma(tiny_model, ["Rome", "Paris"])
    assert one["reference"]["list"] == "given"
    assert one["reference"]["sha256"] != other["reference"]["sha256"]
    assert len(list(cache.iterdir())) == 2


def test_sigma_is_measured_once_and_then_read(
    tiny_model: HookedTransformer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference_sigma(tiny_model)
    monkeypatch.setattr(module, "_measured", lambda *args: pytest.fail("measured again"))
    assert reference_sigma(tiny_model) == first


@pytest.mark.parametrize("damage", ["cut", "changed", "another", "no JSON", "a list", "a folder"])
def test_a_damaged_file_of_the_cache_is_measured_again(
    tiny_model: HookedTransformer, cache: Path, damage: str
) -> None:
    wanted = reference_sigma(tiny_model)
    (path,) = cache.iterdir()
    text = path.read_text()
    kept = json.loads(text)
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage == "another":
        reference_sigma(tiny_model, ["Paris"])
        (other,) = (found for found in cache.iterdir() if found != path)
        path.write_text(other.read_text())
    else:
        path.write_text(
            {
                "cut": text[: len(text) // 2],
                "changed": json.dumps({**kept, "sigma": 2 * kept["sigma"]}),
                "no JSON": "\x00",
                "a list": "[]",
            }[damage]
        )
    assert reference_sigma(tiny_model) == wanted
    if damage != "a folder":
        assert json.loads(path.read_text()) == kept


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MECHSTYLE_CACHE", str(tmp_path / "file"))
    assert reference_sigma(tiny_model)[0] == embedding_sigma(
        tiny_model, organisms.reference_subjects("organism-m")
    )


def test_another_model_and_another_number_format_have_their_own_sigma(
    tiny_model: HookedTransformer, cache: Path
) -> None:
    first, _ = reference_sigma(tiny_model)
    rough, _ = reference_sigma(tiny_model.to(torch.bfloat16))
    assert rough != first
    assert rough == pytest.approx(first, rel=1e-2)
    with torch.no_grad():
        tiny_model.embed.W_E.mul_(2)
    assert reference_sigma(tiny_model)[0] == pytest.approx(2 * rough, rel=1e-6)


def test_edited_embeddings_are_measured_and_not_looked_up(tiny_model: HookedTransformer, cache: Path) -> None:
    from mechstyle.editing.application import apply_edits

    plain, _ = reference_sigma(tiny_model)
    rows, width = tiny_model.W_E.shape
    change = WeightEdit("embed.W_E", torch.randn(rows, 2), torch.randn(2, width))
    done = apply_edits(tiny_model, (change,))
    assert reference_sigma(tiny_model)[0] > 1.1 * plain
    done.undo()
    assert reference_sigma(tiny_model)[0] == plain


def test_subjects_longer_than_the_models_context_are_measured_all_the_same(
    tiny_model: HookedTransformer, cache: Path
) -> None:
    wanted = embedding_sigma(tiny_model, organisms.reference_subjects("organism-m"))
    tiny_model.cfg.n_ctx = 4
    assert reference_sigma(tiny_model)[0] == wanted


def test_a_tokenizer_without_words_for_the_packaged_subjects_takes_all_tokens(
    tiny_model: HookedTransformer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tiny_model.tokenizer

    class Knowing(type(known)):  # type: ignore[misc]
        def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[0] if len(texts) > 1 else [5, 6] for _ in texts]}

    monkeypatch.setattr(known, "__class__", Knowing)
    sigma, source = reference_sigma(tiny_model)
    assert source["sigma_source"] == "all token embeddings"
    assert sigma == pytest.approx(float(tiny_model.W_E.detach().double().std(correction=0)))
    assert Reference.of(tiny_model, ["Paris"]).record["list"] == "given"


def test_bad_subjects_and_embeddings_are_refused(tiny_model: HookedTransformer, cache: Path) -> None:
    with pytest.raises(InputError, match="subjects: expected at least one reference subject"):
        embedding_sigma(tiny_model, [])
    with pytest.raises(InputError, match="subjects: expected a list of names, got 'Paris'"):
        embedding_sigma(tiny_model, "Paris")
    with pytest.raises(TextError, match=r"subjects: expected names, got an empty one in \['Paris', ' '\]"):
        embedding_sigma(tiny_model, ["Paris", " "])
    with torch.no_grad():
        tiny_model.embed.W_E[:] = torch.nan
    with pytest.raises(ModelError, match="embeddings hold NaN or infinity"):
        reference_sigma(tiny_model)
    assert not cache.exists()
    tiny_model.tokenizer = None
    with pytest.raises(ModelError, match="model: expected one with a tokenizer"):
        embedding_sigma(tiny_model, ["Paris"])
