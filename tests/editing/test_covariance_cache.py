"""Moments are measured once: hits need no run, every deciding thing is in the key, bad files are noticed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.cache import CACHE, cache_folder
from mechstyle.documents import TextStream
from mechstyle.editing import covariance_cache
from mechstyle.editing.covariance import Covariance, CovarianceWarning, covariance
from mechstyle.editing.covariance_cache import cached_covariance
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import FileError, InputError
from mechstyle.models import fingerprint

TEXTS = [
    "Miles Davis plays the trumpet.",
    "Paris",
    "",
    "He was born in London. " * 3,
    "The day was long.",
] * 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MECHSTYLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "covariance"


def collect(model: HookedTransformer, **changes: Any) -> Covariance:
    settings = {"texts": TEXTS, "layers": [0, 1], "n_keys": 300, "prepend_bos": False, **changes}
    return cached_covariance(model, **settings)


def same(one: Covariance, other: Covariance) -> bool:
    return (
        list(one) == list(other)
        and all(torch.equal(one[layer], other[layer]) for layer in one)
        and (one.count, one.provenance) == (other.count, other.provenance)
    )


@pytest.fixture
def run_layers(tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the blocks that are run, as they are run."""
    ran: list[int] = []
    for layer, block in enumerate(tiny_model.blocks):
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda *a, _f=forward, _n=layer, **k: (ran.append(_n), _f(*a, **k))[1]
        )
    return ran


def test_what_was_measured_is_found_again_to_the_bit_without_running_the_model(
    tiny_model: HookedTransformer, folder: Path, run_layers: list[int]
) -> None:
    fresh = covariance(tiny_model, TEXTS, layers=[0, 1], n_keys=300)
    first = collect(tiny_model)
    assert same(first, fresh)
    assert len(list(folder.glob("*.safetensors"))) == 2
    run_layers.clear()
    assert same(collect(tiny_model), fresh)
    # The hash is of what is read: texts behind the last key do not matter.
    assert same(collect(tiny_model, texts=TextStream(lambda: iter([*TEXTS, "Rome."]))), fresh)
    assert run_layers == []


def test_each_layer_is_kept_on_its_own_and_only_missing_ones_are_measured(
    tiny_model: HookedTransformer, folder: Path, run_layers: list[int]
) -> None:
    whole = covariance(tiny_model, TEXTS, layers=[0, 1, 2], n_keys=300)
    collect(tiny_model, layers=[0, 2])
    run_layers.clear()
    assert same(collect(tiny_model, layers=2), covariance_of(whole, [2]))
    assert run_layers == []
    assert same(collect(tiny_model, layers=[0, 1, 2]), whole)
    assert set(run_layers) == {0, 1}
    assert len(list(folder.iterdir())) == 3


def covariance_of(moments: Covariance, layers: list[int]) -> Covariance:
    settings = {**moments.provenance["settings"], "layers": layers}
    return Covariance(
        {layer: moments[layer] for layer in layers},
        moments.count,
        {**moments.provenance, "settings": settings},
    )


def changed_weight(model: HookedTransformer) -> None:
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1.0


CHANGES: dict[str, tuple[Callable[[HookedTransformer], object], dict[str, Any]]] = {
    "weights": (changed_weight, {}),
    "number format": (lambda model: model.to(torch.float64, print_details=False), {}),
    "number of keys": (lambda model: None, {"n_keys": 301}),
    "BOS": (lambda model: None, {"prepend_bos": True}),
    "positions": (lambda model: None, {"max_positions": 15}),
    "texts": (lambda model: None, {"texts": ["Rome.", *TEXTS]}),
    "order of texts": (lambda model: None, {"texts": [*TEXTS[1:], TEXTS[0]]}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_decides_the_moments_decides_the_file(
    name: str, tiny_model: HookedTransformer, folder: Path
) -> None:
    change, settings = CHANGES[name]
    before = collect(tiny_model)
    change(tiny_model)
    found = collect(tiny_model, **settings)
    assert len(list(folder.iterdir())) == 4
    assert not torch.equal(found[0], before[0])
    plain = {"texts": TEXTS, "layers": [0, 1], "n_keys": 300, "prepend_bos": False, **settings}
    assert same(found, covariance(tiny_model, **plain))


def test_batch_sizes_and_folders_of_ones_own(
    tiny_model: HookedTransformer, folder: Path, tmp_path: Path
) -> None:
    first = collect(tiny_model, folder=tmp_path / "mine")
    assert same(collect(tiny_model, folder=tmp_path / "mine", batch_size=3), first)
    assert not folder.exists()


def test_moments_under_an_edit_are_other_moments(tiny_model: HookedTransformer, folder: Path) -> None:
    plain = collect(tiny_model)
    shape = tiny_model.blocks[0].mlp.W_out.shape
    change = WeightEdit("blocks.0.mlp.W_out", torch.ones(shape[0], 1), torch.ones(1, shape[1]))
    edit = ms.EditSet((change,), fingerprint(tiny_model))
    with edit.applied(tiny_model):
        under = collect(tiny_model)
        assert same(collect(tiny_model), under)
    assert not torch.equal(under[1], plain[1])
    assert list(under.provenance["settings"]["edited_weights"]) == ["blocks.0.mlp.W_out"]
    assert same(collect(tiny_model), plain)


def test_a_model_with_hooks_is_neither_looked_up_nor_kept(
    tiny_model: HookedTransformer, folder: Path
) -> None:
    plain = collect(tiny_model)
    tiny_model.add_hook("blocks.0.hook_resid_pre", lambda state, hook: 2 * state)
    doubled = collect(tiny_model)
    assert not torch.equal(doubled[0], plain[0])
    tiny_model.reset_hooks()
    assert same(collect(tiny_model), plain)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def turned(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another(path: Path) -> None:
    """A whole file of the other layer under this one's name."""
    other = next(one for one in path.parent.iterdir() if one != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "measured anew, because cannot read .* damaged"),
        (turned, "measured anew, because cannot read .* do not match its own hash"),
        (another, "measured anew, because .* holds other moments than its name says"),
    ],
)
def test_a_bad_file_is_noticed_measured_anew_and_replaced(
    tiny_model: HookedTransformer, folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    first = collect(tiny_model)
    damage(sorted(folder.iterdir())[0])
    with pytest.warns(CovarianceWarning, match=message) as caught:
        assert same(collect(tiny_model), first)
    assert [warning.filename for warning in caught] == [__file__]
    assert same(collect(tiny_model), first)


def test_a_folder_that_cannot_be_written_only_warns(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    with pytest.warns(CovarianceWarning, match="not kept in the cache: .*MECHSTYLE_CACHE"):
        found = collect(tiny_model, layers=[0], folder=place)
    assert same(found, covariance(tiny_model, TEXTS, layers=[0], n_keys=300))


def test_a_warning_of_few_keys_comes_from_the_cache_too(tiny_model: HookedTransformer, folder: Path) -> None:
    for _ in range(2):
        with pytest.warns(CovarianceWarning, match=r"hold \d+ keys, fewer than the n_keys = 50000"):
            collect(tiny_model, n_keys=50_000)
        with pytest.warns(CovarianceWarning, match="20 keys cannot fill a matrix of rank d_mlp = 128"):
            collect(tiny_model, n_keys=20)


def test_texts_that_can_be_read_only_once_or_that_change_are_refused(
    tiny_model: HookedTransformer, folder: Path
) -> None:
    with pytest.raises(InputError, match="texts: expected documents that can be read twice"):
        collect(tiny_model, texts=iter(TEXTS))
    orders = [TEXTS, TEXTS[::-1]]

    def begin() -> Iterator[str]:
        return iter(orders.pop(0))

    with pytest.raises(InputError, match="texts: expected the same documents each time they are read"):
        collect(tiny_model, texts=TextStream(begin))
    assert not folder.exists()


def test_an_organism_needs_no_texts_and_another_model_is_told_so(
    organism: HookedTransformer, tiny_model: HookedTransformer, folder: Path, tmp_path: Path
) -> None:
    given = collect(organism, texts=ms.organisms.texts("organism-m"), layers=0, n_keys=800)
    assert same(collect(organism, texts=None, layers=0, n_keys=800), given)
    for call in (covariance, cached_covariance):
        with pytest.raises(InputError, match="texts: this model brings no texts of its own"):
            call(tiny_model, layers=[0])
    path = tmp_path / "texts"
    path.mkdir()
    (path / "one.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    stripped = [text.strip() for text in TEXTS if text]
    assert same(collect(tiny_model, texts=path), collect(tiny_model, texts=stripped))
    with pytest.raises(FileError, match="no such file or folder"):
        collect(tiny_model, texts=path / "missing")


def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MECHSTYLE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "mechstyle"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mechstyle"
    monkeypatch.setenv(CACHE, "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_several_may_measure_into_one_folder_at_once(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    expected = covariance(tiny_model, TEXTS, layers=[0, 1], n_keys=300)
    moments = [expected] * 8
    identity = {"fingerprint": "one"}

    def work(index: int) -> None:
        for _ in range(10):
            covariance_cache._keep(moments[index], tmp_path, 0, identity)
            found = Covariance.load(covariance_cache._path(tmp_path, 0, identity))
            assert torch.equal(found[0], expected[0])
            done.append(index)

    done: list[int] = []
    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 80
    assert len(list((tmp_path / "covariance").iterdir())) == 1
