"""A language model as a judge: questions, the cache of answers, and servers that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mechstyle.errors import InputError, WorkError
from mechstyle.evaluation.judging import Judge, LLMJudge, judged_rate
from tests.evaluation.judging.chat_server import (
    GUITAR,
    NEW,
    TRUMPET,
    Answering,
    Make,
    Reply,
    by_meaning,
    saying,
    serving,
)


def test_each_text_gets_the_label_and_score_that_the_model_answers(make: Make) -> None:
    with serving(by_meaning) as server:
        judge = make(server)
        verdicts = judge.judge([GUITAR, TRUMPET])
    assert isinstance(judge, Judge)
    assert [(one.label, one.score) for one in verdicts] == [("new", 0.75), ("true", 0.75)]
    assert {one.judge for one in verdicts} == {judge.name} == {"tiny-judge (edit_success)"}


def test_the_request_is_deterministic_and_holds_the_filled_question(make: Make) -> None:
    with serving(saying(NEW)) as server:
        make(server, seed=7).judge([GUITAR])
    body = server.bodies[0]
    assert server.paths == ["/v1/chat/completions"]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("tiny-judge", 0, 7, 100)
    question = server.question()
    assert all(f">{part}<" in question for part in (GUITAR.prompt, GUITAR.text, GUITAR.new, GUITAR.true))
    assert "one of: new, true, both, neither." in question


def test_parameters_replace_the_usual_ones(make: Make) -> None:
    with serving(saying(NEW)) as server:
        make(server, parameters={"max_completion_tokens": 500}, seed=None).judge([GUITAR])
    assert set(server.bodies[0]) == {"model", "messages", "max_completion_tokens"}


def test_a_second_run_makes_no_call_and_says_the_same(make: Make) -> None:
    with serving(saying(NEW, '{"label": "true"}')) as server:
        first = make(server).judge([GUITAR, TRUMPET])
        again = make(server)
        second = again.judge([GUITAR, TRUMPET])
        assert server.hits == 2
    assert [(one.label, one.score) for one in first] == [(one.label, one.score) for one in second]
    assert (again.usage.calls, again.usage.cached) == (0, 2)
    with serving(saying("never asked")) as other:
        make(other).judge([GUITAR])
        assert other.hits == 1, "another endpoint is another judge"


def test_texts_that_are_alike_are_asked_once(make: Make) -> None:
    with serving(saying(NEW)) as server:
        assert len(make(server).judge([GUITAR] * 5)) == 5
        assert server.hits == 1


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"parameters": {"temperature": 0, "max_tokens": 99}},
        {"prompt": "style", "labels": ("a", "b")},
    ],
)
def test_whatever_the_answer_depends_on_is_asked_anew(make: Make, other: dict[str, Any]) -> None:
    with serving(saying(NEW)) as server:
        make(server).judge([GUITAR])
        make(server, **other).judge([GUITAR])
        assert server.hits == 2


def test_a_damaged_answer_on_disk_is_asked_for_again(make: Make, tmp_path: Path) -> None:
    with serving(saying(NEW)) as server:
        make(server).judge([GUITAR])
        (file,) = (tmp_path / "answers").iterdir()
        for damage in ("", "[]", '{"asked": {}, "answer": {"text": "new"}}', file.read_text()[:-30]):
            file.write_text(damage)
            assert make(server).judge([GUITAR])[0].label == "new"
        assert server.hits == 5


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_server_that_fails_twice_is_asked_three_times(make: Make, status: int) -> None:
    with serving(lambda question, hit: Reply("busy", status) if hit < 2 else Reply(NEW)) as server:
        judge = make(server)
        assert judge.judge([GUITAR])[0].label == "new"
        assert server.hits == 3
    assert (judge.usage.calls, judge.usage.retries) == (1, 2)


def test_waits_double_or_are_as_long_as_the_server_says(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("mechstyle.evaluation.judging.llm_judge.time.sleep", waited.append)
    told = {2: (("retry-after", "7"),), 3: (("retry-after", "9999"),), 4: (("retry-after", "soon"),)}
    failing: Answering = lambda question, hit: (  # noqa: E731
        Reply("busy", 429, headers=told.get(hit, ())) if hit < 5 else Reply(NEW)
    )
    with serving(failing) as server:
        make(server, backoff=1.0).judge([GUITAR])
    assert waited == [1, 2, 7, 60, 16]


def test_a_server_that_never_answers_is_given_up_with_what_was_answered_kept(make: Make) -> None:
    with serving(lambda question, hit: Reply(NEW) if hit == 0 else Reply("overloaded", 503)) as server:
        judge = make(server, max_retries=2)
        with pytest.raises(WorkError, match=r"gave no answer in 3 tries.*overloaded.*in the cache") as caught:
            judge.judge([GUITAR, TRUMPET])
        assert server.hits == 4
        assert make(server).judge([GUITAR])[0].label == "new"
        assert server.hits == 4
    assert caught.value.__cause__ is None


def test_a_server_out_of_reach_is_an_error_that_names_it(tmp_path: Path) -> None:
    with serving(saying(NEW)) as server:
        url = server.url
    judge = LLMJudge("m", base_url=url, cache=tmp_path, max_retries=1, backoff=0.0)
    with pytest.raises(WorkError, match=rf"{url} gave no answer in 2 tries"):
        judge.judge([GUITAR])


@pytest.mark.parametrize(("status", "said"), [(400, "no such parameter"), (404, "no such model")])
def test_a_question_that_is_refused_is_not_asked_again(make: Make, status: int, said: str) -> None:
    with serving(lambda question, hit: Reply(said, status)) as server:
        with pytest.raises(
            InputError, match=rf"refuses.*'tiny-judge' \(status {status}\).*{said}.*Check model"
        ):
            make(server).judge([GUITAR])
        assert server.hits == 1


@pytest.mark.parametrize(
    "answer", ["", None, "I think it is the guitar.", '{"label": "maybe"}', '{"label": 3}']
)
def test_what_names_no_label_is_unjudged_and_never_right(make: Make, answer: str | None) -> None:
    with serving(saying(answer, NEW)) as server:
        judge = make(server)
        rate = judged_rate(judge, [GUITAR, TRUMPET], "new")
    assert rate.verdicts[0].label is None
    assert rate.verdicts[0].score is None
    assert (rate.share.n, rate.unjudged, judge.usage.unjudged) == (1, 1, 1)
    assert "1 more not judged" in str(rate)


def test_a_reply_that_is_no_chat_completion_is_an_error(make: Make) -> None:
    with (
        serving(lambda question, hit: Reply(raw="<html>welcome</html>")) as server,
        pytest.raises(WorkError, match="gives no chat completion; check base_url"),
    ):
        make(server).judge([GUITAR])
