"""A process that is killed while it measures: the next one goes on and ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing import moments
from mechstyle.editing.covariance import covariance
from mechstyle.errors import FileError, InputError, RangeError

ROOT = Path(__file__).parents[2]
TEXTS = [
    f"Miles Davis plays the trumpet, and take {number} was long." * (1 + number % 3) for number in range(60)
]
SETTINGS: dict[str, Any] = {"layers": [0, 2], "n_keys": 900, "batch_size": 2, "checkpoint_every": 1}
SCRIPT = """
import json, sys, time
import torch
from mechstyle.editing.covariance import covariance
from mechstyle.models import load_model

folder, checkpoint, texts, settings = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
torch.set_num_threads(1)

def slowly():
    for number, text in enumerate(texts):
        time.sleep(0.0 if number < 10 else 0.2)
        yield text

covariance(load_model(folder), slowly(), checkpoint=checkpoint, **settings)
"""


def test_after_kill_9_the_work_goes_on_and_ends_with_the_same_bits(
    tiny_folder: Path, tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    words = [str(tiny_folder), str(path), json.dumps(TEXTS), json.dumps(SETTINGS)]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *words], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL

    run: list[int] = []
    whole = covariance(tiny_model, TEXTS, **SETTINGS)
    tiny_model.blocks[0].register_forward_pre_hook(lambda *_: run.append(1))
    resumed = covariance(tiny_model, TEXTS, checkpoint=path, **SETTINGS)
    assert 0 < len(run) < whole.provenance["settings"]["n_texts"] / SETTINGS["batch_size"]
    assert all(torch.equal(resumed[layer], whole[layer]) for layer in whole)
    assert (resumed.count, resumed.provenance) == (whole.count, whole.provenance)
    assert not path.exists()


def broken(number: int, error: BaseException) -> Iterator[str]:
    yield from TEXTS[:number]
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FileError("the hub is gone")])
def test_what_was_measured_is_kept_when_the_texts_break_off_between_two_checkpoints(
    tiny_model: HookedTransformer, tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "checkpoint"
    settings = {**SETTINGS, "checkpoint_every": None}
    whole = covariance(tiny_model, TEXTS, **settings)
    with pytest.raises(type(error)):
        covariance(tiny_model, broken(7, error), checkpoint=path, **settings)
    resumed = covariance(tiny_model, TEXTS, checkpoint=path, **settings)
    # The texts broke off in the fourth batch of two; the first three are kept.
    assert all(torch.equal(resumed[layer], whole[layer]) for layer in whole)
    assert not path.exists()


def test_a_batch_that_was_broken_off_half_way_is_not_kept(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    path, passed = tmp_path / "checkpoint", []

    def stop(*_: object) -> None:
        passed.append(1)
        if len(passed) == 5:
            raise KeyboardInterrupt

    whole = covariance(tiny_model, TEXTS, **SETTINGS)
    hook = tiny_model.blocks[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        covariance(tiny_model, TEXTS, checkpoint=path, **SETTINGS)  # layer 0 has summed the fifth batch
    hook.remove()
    resumed = covariance(tiny_model, TEXTS, checkpoint=path, **SETTINGS)
    assert all(torch.equal(resumed[layer], whole[layer]) for layer in whole)


def test_nothing_is_kept_of_work_that_had_nothing(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        covariance(tiny_model, broken(1, KeyboardInterrupt()), checkpoint=tmp_path / "checkpoint", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def interrupted(model: HookedTransformer, path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        covariance(model, broken(8, KeyboardInterrupt()), checkpoint=path, **SETTINGS)


def as_double(model: HookedTransformer) -> None:
    model.to(torch.float64, print_details=False)


def other_weights(model: HookedTransformer) -> None:
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1.0


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (as_double, {}, "was written with another dtype"),
        (other_weights, {}, "was written with another fingerprint"),
        (lambda model: None, {"layers": [1], "prepend_bos": True}, "another layers and prepend_bos"),
    ],
)
def test_a_checkpoint_of_other_work_is_refused_and_stays(
    tiny_model: HookedTransformer,
    tmp_path: Path,
    change: Callable[[HookedTransformer], None],
    settings: dict[str, Any],
    message: str,
) -> None:
    path = tmp_path / "checkpoint"
    interrupted(tiny_model, path)
    before = path.read_bytes()
    change(tiny_model)
    with pytest.raises(InputError, match=message):
        covariance(tiny_model, TEXTS, checkpoint=path, **{**SETTINGS, **settings})
    assert path.read_bytes() == before


def test_fewer_or_other_texts_than_the_checkpoint_has_read_are_refused(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    interrupted(tiny_model, path)
    for texts in (TEXTS[:3], [], TEXTS[::-1]):
        with pytest.raises(
            InputError, match="texts: expected those that the checkpoint has read, got others"
        ):
            covariance(tiny_model, texts, checkpoint=path, **SETTINGS)


def test_a_damaged_checkpoint_is_refused(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    interrupted(tiny_model, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileError, match="damaged"):
        covariance(tiny_model, TEXTS, checkpoint=path, **SETTINGS)


def test_checkpoints_take_no_more_than_a_tenth_of_the_time(
    tiny_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes one second a batch and 20 seconds a checkpoint, 25 seconds apart at least."""
    clock, written, begun = [0.0], [], []
    save = moments.RunningMoments.save

    def saved(running: moments.RunningMoments, *where: Any) -> None:
        begun.append(clock[0])
        clock[0] += 20.0
        save(running, *where)
        written.append(clock[0])

    def tick(*_: object) -> None:
        clock[0] += 1.0

    monkeypatch.setattr(moments.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(moments, "SECONDS", 25.0)
    monkeypatch.setattr(moments.RunningMoments, "save", saved)
    tiny_model.blocks[0].register_forward_pre_hook(tick)
    settings = {**SETTINGS, "batch_size": 1, "n_keys": 5_000, "checkpoint_every": None}
    covariance(tiny_model, TEXTS * 5, checkpoint=tmp_path / "checkpoint", **settings)
    assert begun[0] == 25.0
    assert [later - earlier for earlier, later in zip(written, begun[1:], strict=False)] == [200.0] * (
        len(begun) - 1
    )
    assert os.listdir(tmp_path) == []


def test_a_number_of_batches_between_checkpoints_is_at_least_one(tiny_model: HookedTransformer) -> None:
    with pytest.raises(RangeError, match="checkpoint_every: expected 1 or more, got 0"):
        covariance(tiny_model, TEXTS, layers=[0], checkpoint_every=0)
