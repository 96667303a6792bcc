"""Never more than one matrix a layer and one batch in memory: while keys are collected, and when saved."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.memory import LiveTensors
from mechstyle.editing.covariance import Covariance, covariance
from mechstyle.editing.moments import BLOCK, RunningMoments
from mechstyle.models import load_model
from mechstyle.runs import capture
from mechstyle.sites import Site

WIDTH, LAYERS, BATCH = 1100, [0, 1, 2], 4
MATRIX = 8 * WIDTH**2
TEXTS = [f"Miles Davis plays the trumpet, and take {number} was long." for number in range(400)]


@pytest.fixture(scope="module")
def wide(
    random_gpt2: Callable[..., GPT2LMHeadModel], tiny_tokenizer: PreTrainedTokenizerFast
) -> HookedTransformer:
    """A model whose MLPs are much wider than all else."""
    hf = random_gpt2(len(tiny_tokenizer), n_inner=WIDTH)
    return load_model(hf, tokenizer=tiny_tokenizer)


def peak_of_one_batch(model: HookedTransformer) -> int:
    """What the longest batch needs to be run, without anything being summed."""
    rows = [torch.tensor(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    longest = sorted(rows, key=len)[-BATCH:]
    ids = pad_sequence(longest, batch_first=True)
    with LiveTensors() as live:
        capture(model, ids, [Site(2, "key")], attention_mask=torch.ones_like(ids))
    return live.peak


def test_collecting_holds_one_matrix_a_layer_and_one_batch_however_many_there_are(
    wide: HookedTransformer,
) -> None:
    batch = peak_of_one_batch(wide)
    peaks = []
    for n_keys in (1_200, 2_400):
        with LiveTensors() as live:
            found = covariance(wide, TEXTS, layers=LAYERS, n_keys=n_keys, batch_size=BATCH)
        peaks.append(live.peak)
        del found
    # While a block of rows is summed, its product stands beside the sums: in single precision, as the keys.
    assert max(peaks) < len(LAYERS) * MATRIX + 2 * batch + 4 * BLOCK * WIDTH
    assert max(peaks) > len(LAYERS) * MATRIX
    assert abs(peaks[1] - peaks[0]) < batch


def traced(work: Callable[[], object]) -> int:
    """The most bytes that Python objects and arrays of numpy took during some work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def moments() -> Covariance:
    generator = torch.Generator().manual_seed(0)
    return Covariance(
        {layer: torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) for layer in LAYERS}, 1
    )


def test_saving_moments_copies_none(moments: Covariance, tmp_path: Path) -> None:
    with LiveTensors() as live:
        assert traced(lambda: moments.save(tmp_path / "c.safetensors")) < MATRIX / 8
    assert live.peak < MATRIX / 8
    assert (tmp_path / "c.safetensors").stat().st_size > len(LAYERS) * MATRIX


def test_a_checkpoint_is_written_and_read_without_copies(moments: Covariance, tmp_path: Path) -> None:
    running = RunningMoments(dict(moments.matrices))
    path, settings = tmp_path / "checkpoint", {"layers": LAYERS}
    with LiveTensors() as live:
        assert traced(lambda: running.save(path, settings)) < MATRIX / 8
    assert live.peak < MATRIX / 8
    with LiveTensors() as live:
        again = RunningMoments.load(path, settings, torch.device("cpu"))
    assert live.peak < (len(LAYERS) + 0.2) * MATRIX
    assert all(torch.equal(again.sums[layer], moments[layer]) for layer in LAYERS)


def test_finishing_needs_no_second_matrix() -> None:
    running = RunningMoments.zeros(LAYERS, 2 * WIDTH, torch.device("cpu"))
    keys = torch.randn(8, 2 * WIDTH, generator=torch.Generator().manual_seed(0))
    for layer in LAYERS:
        running.add(layer, keys)
    running.read.passed(["text"], len(keys))
    with LiveTensors() as live:
        finished = running.finish()
    assert live.peak < 4 * 8 * BLOCK**2
    exact = keys.double()
    torch.testing.assert_close(finished[1], exact.T @ exact / len(keys), rtol=1e-5, atol=1e-5)


def test_texts_are_let_go_as_the_work_goes_on(tiny_model: HookedTransformer) -> None:
    class Text(str):
        """Counts the documents that are alive; a plain string cannot be watched."""

        alive = most = 0

        def __init__(self, _: str) -> None:
            Text.alive += 1
            Text.most = max(Text.most, Text.alive)

        def __del__(self) -> None:
            Text.alive -= 1

    def stream() -> Iterator[str]:
        for text in TEXTS:
            yield Text(text)

    covariance(tiny_model, stream(), layers=[0], n_keys=3_000, batch_size=BATCH)
    assert 0 < Text.most <= 2 * BATCH + 2
