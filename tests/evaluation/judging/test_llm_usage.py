"""What a language model as a judge costs, and where it stops."""

from __future__ import annotations

import pytest

from mechstyle.errors import WorkError
from mechstyle.evaluation.judging import Judged, judged_rate
from tests.evaluation.judging.chat_server import (
    GUITAR,
    NEW,
    TRUMPET,
    Make,
    Reply,
    by_meaning,
    saying,
    serving,
)


def test_tokens_and_cost_add_up_and_are_shown(make: Make) -> None:
    with serving(saying(NEW)) as server:
        judge = make(server, prices=(3.0, 15.0))
        rate = judged_rate(judge, [GUITAR, TRUMPET, GUITAR], "new")
    each = (100 * 3.0 + 10 * 15.0) / 1e6
    assert [one.cost for one in rate.verdicts] == pytest.approx([each, each, 0.0])
    assert rate.cost == pytest.approx(2 * each) == judge.usage.cost
    assert (judge.usage.tokens_in, judge.usage.tokens_out, judge.usage.calls) == (200, 20, 2)
    assert f"cost {2 * each:.4f}" in str(judge.usage)
    assert f"cost {2 * each:.4f}" in str(rate)


def test_without_prices_the_cost_is_unknown_and_not_zero(make: Make) -> None:
    with serving(saying(NEW)) as server:
        judge = make(server)
        rate = judged_rate(judge, [GUITAR], "new")
    assert judge.usage.cost is None
    assert rate.cost is None
    assert "cost not known" in str(rate)


def test_tokens_that_the_server_does_not_count_cost_the_most_they_can(make: Make) -> None:
    with serving(lambda question, hit: Reply(NEW, usage=None)) as server:
        judge = make(server, prices=(1.0, 1.0))
        cost = judge.judge([GUITAR])[0].cost
        assert cost == pytest.approx((len(server.question().encode()) + 200) / 1e6)
    assert judge.usage.estimated == 1


def test_silence_is_retried_and_its_cost_is_counted_as_the_most_it_can_be(make: Make) -> None:
    with serving(lambda question, hit: Reply(NEW, after=1.0 if hit == 0 else 0.0)) as server:
        judge = make(server, timeout=0.3, prices=(1.0, 2.0))
        assert judge.judge([GUITAR])[0].label == "new"
        known = (100 * 1.0 + 10 * 2.0) / 1e6
        most = ((len(server.question().encode()) + 100) * 1.0 + 100 * 2.0) / 1e6
    assert judge.usage.cost == pytest.approx(known + most)
    assert (judge.usage.retries, judge.usage.estimated) == (1, 1)
    assert "at most (1 calls estimated)" in str(judge.usage)


def test_the_limit_stops_before_the_call_that_could_exceed_it(make: Make) -> None:
    texts = [Judged(f" guitar {number}.", "He plays the", new=" guitar", true=" horn") for number in range(9)]
    with serving(saying(NEW)) as server:
        probe = make(server, prices=(1.0, 1.0))
        probe.judge(texts[:1])
        most = (len(server.question().encode()) + 200) / 1e6
        each = 110 / 1e6
        limit = 3 * each + most - 1e-9
        judge = make(server, prices=(1.0, 1.0), max_cost=limit)
        with pytest.raises(WorkError, match=r"max_cost: 0.00033 of .* is spent.*raise max_cost to go on"):
            judge.judge(texts)
        assert server.hits == 1 + 3, "the first text is in the cache, the next call could exceed the limit"
        assert judge.usage.cost == pytest.approx(3 * each)
        assert judge.usage.cost <= limit
        assert len(make(server, prices=(1.0, 1.0), max_cost=1.0).judge(texts)) == 9
        assert server.hits == 9


def test_measuring_keeps_counting_the_cost_and_carries_the_accuracy(make: Make) -> None:
    with serving(by_meaning) as server:
        judge = make(server, prices=(1.0, 1.0))
        assert judge.accuracy is None
        measured = judge.measured_on([GUITAR, TRUMPET, TRUMPET], ["new", "true", "both"])
        assert measured.accuracy is not None
        assert measured.accuracy.share.value == pytest.approx(2 / 3)
        assert measured.usage == judge.usage
        assert measured.usage.calls == 2
    assert measured.settings()["accuracy"]["accuracy"]["n"] == 3
