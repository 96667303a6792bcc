"""Many solves one after the other: each on top of those before; a broken-off call goes on where it was."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import active_ids
from mechstyle.editing.keys import subject_states
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_batches import Held, batches_done, described
from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.sites import Site
from mechstyle.solve import closed_form_update
from tests.editing.test_running_sums import same, weights

ROOT = Path(__file__).parents[2]
REQUESTS = tuple(
    ms.EditRequest(ms.Fact("The instrument of {} is the", f"Miles {number}", " trumpet"), " guitar")
    for number in range(200)
)
SCRIPT = """
import itertools, sys, time, torch
import mechstyle as ms
from tests.editing import test_ledger_write as run
torch.set_num_threads(1)
states, calls = run.subject_states, itertools.count()

def slowly(*args):
    time.sleep(0.0 if next(calls) < 30 else 0.2)
    return states(*args)

run.subject_states = slowly
model = ms.load_model(sys.argv[1], check_parity=False)
ms.Ledger.open(model, sys.argv[2]).write(run.turned, run.REQUESTS, batch_size=4)
"""
"""The first 15 of 50 solves in a hurry, the others so slowly that the process is killed among them."""


def turned(model: HookedTransformer, batch: Sequence[ms.EditRequest], size: float = -1.0) -> ms.EditSet:
    """Turn what an MLP writes at each subject: no search, but it takes earlier edits into account."""
    facts = [request.fact for request in batch]
    keys = subject_states(model, facts, Site(0, "key"))[:, 0].double()
    now = subject_states(model, facts, Site(0, "mlp"))[:, 0].double()
    update = closed_form_update(keys, size * now, torch.eye(keys.shape[1], dtype=torch.float64), 1.0)
    edit = ms.WeightEdit(Site(0, "mlp").parameter, update.left, update.right, keys)
    settings = {"method": "turned", "on_top_of": list(active_ids(model))}
    return ms.EditSet((edit,), ms.fingerprint(model), {"settings": settings})


@dataclass
class Counting:
    """The editor, which counts the requests of its solves and breaks off in the one after ``limit``."""

    limit: int | None = None
    sizes: list[int] = field(default_factory=list)

    def __call__(self, model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        if len(self.sizes) == self.limit:
            raise KeyboardInterrupt
        self.sizes.append(len(batch))
        return turned(model, batch)


def test_each_solve_is_an_entry_on_top_of_those_before(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    with Ledger(tiny_model) as ledger:
        entries = ledger.write(turned, REQUESTS[:5], batch_size=2)
        inside = weights(tiny_model)
        assert entries == ledger.entries
        assert [entry.requests for entry in entries] == [REQUESTS[:2], REQUESTS[2:4], REQUESTS[4:5]]
        ids = [entry.edit.id for entry in entries]
        assert [entry.edit.provenance["settings"]["on_top_of"] for entry in entries] == [[], ids[:1], ids[:2]]
        assert not any(entry.stale for entry in entries)
        assert ledger.interactions().shape[0] == 6
        ledger.toggle(1)
        assert [entry.stale for entry in ledger.entries] == [False, True, True]
    assert same(weights(tiny_model), before)
    handles = [
        turned(tiny_model, batch).apply_(tiny_model) for batch in (REQUESTS[:2], REQUESTS[2:4], REQUESTS[4:5])
    ]
    assert same(weights(tiny_model), inside)
    for handle in handles:
        handle.undo()


def test_no_batch_size_means_one_solve(tiny_model: HookedTransformer) -> None:
    editor = Counting()
    with Ledger(tiny_model) as ledger:
        ledger.write(editor, list(REQUESTS[:3]))
    assert editor.sizes == [3]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_same_call_after_an_exception_goes_on_and_a_third_one_does_nothing(
    tiny_model: HookedTransformer, tmp_path: Path, limit: int
) -> None:
    with Ledger(tiny_model) as whole:
        whole.write(turned, REQUESTS[:7], batch_size=2)
        expected = weights(tiny_model)
    with (
        Ledger.open(tiny_model, tmp_path / "edits") as ledger,
        pytest.raises(KeyboardInterrupt),
    ):
        ledger.write(Counting(limit), REQUESTS[:7], batch_size=2, editor_name="turned")
    assert [entry.number for entry in ledger.entries] == list(range(1, limit + 1))
    for solves in (4 - limit, 0):
        editor = Counting()
        with Ledger.open(tiny_model, tmp_path / "edits") as ledger:
            entries = ledger.write(editor, REQUESTS[:7], batch_size=2, editor_name="turned")
            assert [entry.number for entry in entries] == [1, 2, 3, 4]
            assert same(weights(tiny_model), expected)
        assert len(editor.sizes) == solves


def test_other_requests_are_written_after_what_is_there(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        ledger.write(turned, REQUESTS[:2], batch_size=1)
        assert [entry.number for entry in ledger.write(turned, REQUESTS[2:4], batch_size=1)] == [3, 4]
        # The end of the ledger is the beginning of this call.
        assert [entry.number for entry in ledger.write(turned, REQUESTS[2:5], batch_size=1)] == [3, 4, 5]
        assert [entry.number for entry in ledger.write(turned, REQUESTS[2:5], batch_size=3)] == [6]


def test_the_same_requests_from_another_editor_are_refused_before_any_work(
    tiny_model: HookedTransformer,
) -> None:
    half = functools.partial(turned, size=-0.5)
    with Ledger(tiny_model) as ledger:
        ledger.write(turned, REQUESTS[:2], batch_size=1)
        message = r"entry 1 .* already and was written by .*turned, not by .*turned\(size=-0.5\)"
        with pytest.raises(InputError, match=message):
            ledger.write(half, REQUESTS[:3], batch_size=1)
        assert len(ledger.entries) == 2
        ledger.add(half(tiny_model, REQUESTS[:1]))
        assert [entry.number for entry in ledger.write(turned, REQUESTS[:1])] == [1]
        assert len(ledger.entries) == 3


def test_bad_calls_are_refused_before_any_work(tiny_model: HookedTransformer) -> None:
    def other(model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        edit = turned(model, batch)
        return ms.EditSet(edit.edits, edit.fingerprint, requests=REQUESTS[50:52])

    with Ledger(tiny_model) as ledger:
        for wrong in ([], ["a fact"], REQUESTS[0].fact.prompt):
            with pytest.raises(InputError, match="requests: expected a list of one EditRequest or more"):
                ledger.write(turned, wrong)  # type: ignore[arg-type]
        with pytest.raises(RangeError, match="batch_size: expected a whole number of 1 or more, got 0"):
            ledger.write(turned, REQUESTS, batch_size=0)
        with pytest.raises(InputError, match="editor: expected one that returns an EditSet, got NoneType"):
            ledger.write(lambda model, batch: None, REQUESTS[:1])  # type: ignore[arg-type,return-value]
        with pytest.raises(InputError, match="edit of the 1 requests it was given, got one of 2 others"):
            ledger.write(other, REQUESTS[:1])
        assert ledger.entries == ()


def test_a_failed_check_stops_the_call_which_goes_on_there_with_a_wider_check(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    big = functools.partial(turned, size=-3.0)
    with Ledger(tiny_model) as whole:
        whole.write(big, REQUESTS[:6], batch_size=2)
        ratios, expected = whole.frame()["delta_ratio"], weights(tiny_model)
    limit = float(ratios[:2].max()) * 1.0001
    assert ratios[2] > limit
    with Ledger.open(tiny_model, tmp_path / "a", health=ms.HealthCheck(max_delta_ratio=limit)) as ledger:
        with pytest.raises(WorkError, match=r"refused as entry 3, because the change of blocks.0.mlp.W_out"):
            ledger.write(big, REQUESTS[:6], batch_size=2)
        assert [entry.active for entry in ledger.entries] == [True, True, False]
        assert ledger.entries[2].refused
        assert ledger.entries[2].health.delta_ratio == ratios[2]
    with Ledger.open(tiny_model, tmp_path / "a") as ledger:
        entries = ledger.write(big, REQUESTS[:6], batch_size=2)
        assert [entry.number for entry in entries] == [1, 2, 4]
        assert same(weights(tiny_model), expected)


def test_each_batch_is_held_by_one_entry_of_the_same_editor() -> None:
    a, b, c = ((request,) for request in REQUESTS[:3])

    def held(*entries: tuple[int, tuple[ms.EditRequest, ...], str, bool]) -> list[int | None]:
        return batches_done([a, b, a], [Held(*entry) for entry in entries], "e")

    assert held() == [None, None, None]
    assert held((1, c, "e", True), (2, a, "e", True)) == [2, None, None]
    assert held((1, b, "e", True), (2, a, "e", True), (3, a, "e", True)) == [2, 1, 3]
    assert held((1, a, "other", False), (2, b, "e", False)) == [None, 2, None]
    assert held((1, a, "e", False), (2, a, "e", True), (4, b, "e", True)) == [2, 4, 1]
    with pytest.raises(
        InputError, match="entry 1 of the ledger holds 1 of them already and was written by x"
    ):
        held((1, a, "x", True))


def test_an_editor_is_described_by_its_arguments() -> None:
    def words(matrix: torch.Tensor, steps: int) -> str:
        options = {"layers": [1], "covariance": {0: matrix}, "target_options": ms.TargetOptions(steps=steps)}
        return described(functools.partial(ms.memit, **options))  # type: ignore[arg-type]

    told = words(torch.eye(2), 3)
    assert told.startswith("mechstyle.editing.batch_methods.memit(covariance={0: Tensor[2, 2] ")
    assert "layers=[1], target_options=TargetOptions(steps=3, lr=0.5" in told
    assert told == words(torch.eye(2), 3)
    assert len({told, words(torch.eye(2), 4), words(2 * torch.eye(2), 3)}) == 3
    long = [described(functools.partial(turned, contexts=["{} " * 500, end])) for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) < 420


def test_a_run_of_two_hundred_edits_that_is_killed_goes_on_and_ends_with_the_same_bits(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model = ms.load_model(tiny_folder, check_parity=False)
    with Ledger(model) as ledger:
        ledger.write(turned, REQUESTS, batch_size=4)
        expected = weights(model)
    folder = tmp_path / "edits"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tiny_folder), str(folder)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("entries/0015-*.safetensors")):
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL

    written = len(list(folder.glob("entries/*.safetensors")))
    with Ledger.open(model, folder) as ledger:
        there = len(ledger.entries)
        assert written - 1 <= there <= written  # no more than the solve in flight is lost
        assert 14 <= there < 50
        ledger.write(turned, REQUESTS, batch_size=4)
        assert [entry.number for entry in ledger.entries] == list(range(1, 51))
        assert same(weights(model), expected)
    with Ledger.open(model, folder):
        assert same(weights(model), expected)
