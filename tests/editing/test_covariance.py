"""Second moments against a dense oracle, exact counts, padding, BOS, files and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.editing import moments
from mechstyle.editing.covariance import Covariance, CovarianceWarning, covariance
from mechstyle.editing.moments import RunningMoments
from mechstyle.errors import FileError, InputError, ModelError, RangeError
from mechstyle.models import fingerprint, load_model
from tests.checkpoints import KINDS, random_hf
from tests.oracles import textbook

TEXTS = [
    "Miles Davis plays the trumpet.",
    "Paris",
    "",
    "The mother tongue of Danielle Darrieux is French. He was born in London. " * 3,
    "The day was long.",
] * 6


def oracle(
    model: HookedTransformer, texts: list[str], layer: int, n_keys: int, *, bos: bool, width: int
) -> tuple[np.ndarray, int]:
    """All keys one text at a time, stacked, in numpy."""
    rows: list[Tensor] = []
    for text in texts:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            continue
        ids = ([model.tokenizer.bos_token_id] if bos else []) + ids
        _, cache = model.run_with_cache(torch.tensor([ids[:width]]), prepend_bos=False)
        rows.extend(cache[f"blocks.{layer}.mlp.hook_post"][0])
    keys = torch.stack(rows)[:n_keys].detach().double().numpy()
    return keys.T @ keys / len(keys), len(keys)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("n_keys", [200, 301])
def test_moments_are_those_of_all_keys_stacked(tiny_model: HookedTransformer, bos: bool, n_keys: int) -> None:
    found = covariance(
        tiny_model, TEXTS, layers=[0, 2], n_keys=n_keys, prepend_bos=bos, batch_size=3, max_positions=40
    )
    assert found.count == n_keys
    for layer in (0, 2):
        expected, count = oracle(tiny_model, TEXTS, layer, n_keys, bos=bos, width=40)
        assert count == n_keys
        np.testing.assert_allclose(found[layer].numpy(), expected, rtol=1e-4, atol=1e-5)
        assert found[layer].dtype == torch.float64
        assert torch.equal(found[layer], found[layer].T)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_gives_the_textbook_moments(
    tiny_tokenizer: PreTrainedTokenizerFast, kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = load_model(random_hf(kind, len(tiny_tokenizer)), tokenizer=tiny_tokenizer, dtype=dtype)
    texts = [text for text in TEXTS if text]
    rows = [model.tokenizer(text, add_special_tokens=False)["input_ids"][:40] for text in texts]
    count = sum(map(len, rows))
    found = covariance(model, texts, layers=[0, 2], n_keys=count, prepend_bos=False, max_positions=40)
    expected = textbook.second_moments(model, rows, layers=[0, 2], batch_size=4)
    assert found.count == count
    for layer in (0, 2):
        size = float(expected[layer].abs().max())
        torch.testing.assert_close(found[layer], expected[layer], rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("block", [1, 48, 64, 1000])
def test_the_blocks_that_a_moment_is_summed_in_do_not_matter(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    tiny_model.to(torch.float64, print_details=False)
    whole = covariance(tiny_model, TEXTS, layers=[1], n_keys=250)[1]
    monkeypatch.setattr(moments, "BLOCK", block)
    found = covariance(tiny_model, TEXTS, layers=[1], n_keys=250)[1]
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, found.T)


def test_a_moment_needs_little_more_than_half_of_the_products() -> None:
    keys = torch.randn(16, 2048, generator=torch.Generator().manual_seed(0))
    running = RunningMoments.zeros([0], 2048, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        running.add(0, keys)
    running.read.passed(["text"], len(keys))
    blocks = 2048 // moments.BLOCK
    assert counter.get_total_flops() == 2 * 16 * 2048**2 * (blocks + 1) // (2 * blocks)
    exact = keys.double()
    torch.testing.assert_close(running.finish()[0], exact.T @ exact / 16, rtol=1e-5, atol=1e-5)


def test_layers_above_the_deepest_asked_one_are_not_run(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("this layer is above all that were asked for")

    monkeypatch.setattr(tiny_model.blocks[2], "forward", run)
    assert covariance(tiny_model, TEXTS, layers=[0, 1], n_keys=150).count == 150


def test_padding_is_never_counted_so_the_batch_size_does_not_matter(tiny_model: HookedTransformer) -> None:
    one, many = (covariance(tiny_model, TEXTS, layers=[1], n_keys=250, batch_size=size) for size in (1, 7))
    torch.testing.assert_close(one[1], many[1], rtol=1e-5, atol=1e-6)
    assert one.count == many.count == 250
    assert one.provenance == many.provenance


def test_the_stream_is_read_no_further_than_needed(tiny_model: HookedTransformer) -> None:
    stream = iter(TEXTS)
    with pytest.warns(CovarianceWarning, match="3 keys cannot fill a matrix of rank d_mlp = 128"):
        found = covariance(tiny_model, stream, layers=[0], n_keys=3)
    assert found.count == 3
    assert len(list(stream)) == len(TEXTS) - 1


def test_too_few_keys_are_used_and_their_number_is_said(tiny_model: HookedTransformer) -> None:
    with pytest.warns(CovarianceWarning, match=r"hold \d+ keys, fewer than the n_keys = 50000") as caught:
        found = covariance(tiny_model, TEXTS, layers=[0])
    assert str(found.count) in str(caught[0].message)


def test_provenance_names_model_text_and_settings(tiny_model: HookedTransformer) -> None:
    found = covariance(tiny_model, TEXTS, layers=1, n_keys=200, max_positions=40)
    other = covariance(tiny_model, ["Rome. ", *TEXTS], layers=1, n_keys=200, max_positions=40)
    settings = found.provenance["settings"]
    assert found.provenance["fingerprint"] == fingerprint(tiny_model)
    assert (settings["count"], settings["prepend_bos"], settings["max_positions"]) == (200, False, 40)
    assert settings["text_sha256"] != other.provenance["settings"]["text_sha256"]


def test_saved_and_loaded_is_the_same_to_the_bit(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    found = covariance(tiny_model, TEXTS, layers=[2, 0], n_keys=200)
    loaded = Covariance.load(found.save(tmp_path / "c.safetensors"))
    assert list(loaded) == [0, 2]
    assert all(torch.equal(loaded[layer], found[layer]) for layer in found)
    assert (loaded.count, loaded.provenance) == (found.count, found.provenance)


def test_damaged_or_foreign_files_are_refused(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    path = covariance(tiny_model, TEXTS, layers=[0], n_keys=200).save(tmp_path / "c.safetensors")
    good = bytearray(path.read_bytes())
    path.write_bytes(good[:-10])
    with pytest.raises(FileError, match="damaged"):
        Covariance.load(path)
    good[-1] ^= 1
    path.write_bytes(good)
    with pytest.raises(FileError, match="do not match its own hash"):
        Covariance.load(path)
    with pytest.raises(FileError, match="expected a file there"):
        Covariance.load(tmp_path / "absent.safetensors")


def test_condition_number_is_the_ratio_of_extreme_eigenvalues() -> None:
    moments = Covariance({0: torch.diag(torch.tensor([4.0, 1.0, 8.0], dtype=torch.float64))}, 3)
    assert moments.condition_number(0) == pytest.approx(8.0)
    assert Covariance({0: torch.zeros(2, 2)}, 3).condition_number(0) == float("inf")


def test_bad_arguments_are_refused_by_name(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="texts: expected an iterable of documents, got one string"):
        covariance(tiny_model, "one text", layers=[0])
    with pytest.raises(InputError, match="texts: expected at least one document with text, got none"):
        covariance(tiny_model, ["", ""], layers=[0])
    with pytest.raises(InputError, match="texts: expected documents as text, got int"):
        covariance(tiny_model, [3], layers=[0])  # type: ignore[list-item]
    with pytest.raises(InputError, match="layers: expected at least one layer"):
        covariance(tiny_model, TEXTS, layers=[])
    with pytest.raises(RangeError, match="from 0 to 2"):
        covariance(tiny_model, TEXTS, layers=[3])
    for name in ("n_keys", "batch_size", "max_positions"):
        with pytest.raises(RangeError, match=f"{name}: expected 1 or more, got 0"):
            covariance(tiny_model, TEXTS, layers=[0], **{name: 0})  # type: ignore[arg-type]


def test_a_model_with_nan_weights_is_refused(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.blocks[1].mlp.W_in[0, 0] = torch.nan
    with pytest.raises(ModelError, match="its keys at layer 1 are NaN or infinite"):
        covariance(tiny_model, ["The day was long."], layers=[0, 1], n_keys=3)


def test_enough_keys_give_no_warning(tiny_model: HookedTransformer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        covariance(tiny_model, TEXTS, layers=[0], n_keys=150)


def killed_after(texts: list[str], number: int) -> Iterator[str]:
    yield from texts[:number]
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [3, 11, 20])
def test_work_goes_on_after_a_kill_and_gives_the_same_bits(
    tiny_model: HookedTransformer, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def collect(texts: Iterable[str], **changes: int) -> Covariance:
        settings = {"layers": [0, 1], "n_keys": 290, "batch_size": 2, "max_positions": 40, **changes}
        return covariance(tiny_model, texts, checkpoint=path, checkpoint_every=1, **settings)  # type: ignore[arg-type]

    whole = collect(TEXTS)
    with pytest.raises(KeyboardInterrupt):
        collect(killed_after(TEXTS, number))
    assert path.exists()
    with pytest.raises(InputError, match="was written with another n_keys"):
        collect(TEXTS, n_keys=200)
    with pytest.raises(InputError, match="texts: expected those that the checkpoint has read, got others"):
        collect(["Rome.", *TEXTS])
    resumed = collect(TEXTS)
    assert all(torch.equal(resumed[layer], whole[layer]) for layer in whole)
    assert (resumed.count, resumed.provenance) == (whole.count, whole.provenance)
    assert not path.exists()
