"""A language model as a judge, against a server on this machine."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechstyle.errors import FileError, InputError, RangeError, TextError, WorkError
from mechstyle.evaluation.judging import Judge, Judged, LLMJudge, judged_rate
from tests.evaluation.judging.chat_server import Answering, ChatServer, Reply, saying, serving

GUITAR = Judged(" guitar.", "Miles Davis plays the", new=" guitar", true=" trumpet")
TRUMPET = Judged(" trumpet.", "Miles Davis plays the", new=" guitar", true=" trumpet")
NEW = '{"label": "new", "score": 0.9}'
KEY = "sk-a-secret-of-the-tests"

Make = Callable[..., LLMJudge]


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A judge behind a server, with its cache in the test's own folder."""

    def judge(server: ChatServer, **settings: Any) -> LLMJudge:
        given = {"cache": tmp_path / "answers", "backoff": 0.01, **settings}
        return LLMJudge("tiny-judge", base_url=server.url, **given)

    return judge


def by_meaning(question: str, hit: int) -> Reply:
    """Says what stands between the tags of the question's text."""
    text = question.split("<text>")[1].split("</text>")[0]
    return Reply(json.dumps({"label": "new" if "guitar" in text else "true", "score": 0.75}))


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


def test_silence_is_retried_and_its_cost_is_counted_as_the_most_it_can_be(make: Make) -> None:
    with serving(lambda question, hit: Reply(NEW, after=1.0 if hit == 0 else 0.0)) as server:
        judge = make(server, timeout=0.3, prices=(1.0, 2.0))
        assert judge.judge([GUITAR])[0].label == "new"
        known = (100 * 1.0 + 10 * 2.0) / 1e6
        most = ((len(server.question().encode()) + 100) * 1.0 + 100 * 2.0) / 1e6
    assert judge.usage.cost == pytest.approx(known + most)
    assert (judge.usage.retries, judge.usage.estimated) == (1, 1)
    assert "at most (1 calls estimated)" in str(judge.usage)


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


def test_settings_are_json_and_hold_no_key(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with serving(saying(NEW)) as server:
        judge = make(server, api_key_env="MY_KEY")
        judge.judge([GUITAR])
        assert server.keys == [f"Bearer {KEY}"]
    settings = json.dumps(judge.settings())
    assert json.loads(settings)["endpoint"] == server.url
    files = "".join(file.read_text() for file in (tmp_path / "answers").iterdir())
    assert KEY not in settings + repr(judge) + files + caplog.text


def test_an_error_that_quotes_the_key_is_told_without_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with (
        serving(lambda question, hit: Reply(f"bad key {KEY}", 401)) as server,
        pytest.raises(InputError, match=r"status 401\).*bad key \.\.\.") as caught,
    ):
        make(server, api_key_env="MY_KEY").judge([GUITAR])
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_key_of_openai_is_sent_to_no_other_endpoint(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(saying(NEW)) as server:
        make(server).judge([GUITAR])
    assert KEY not in str(server.keys)


def test_the_endpoint_does_not_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert LLMJudge("m").settings()["endpoint"] == "https://api.openai.com/v1"


def test_without_key_and_endpoint_there_is_no_judge() -> None:
    with pytest.raises(InputError, match=r"OPENAI_API_KEY is not set; put the key .* or pass base_url=..."):
        LLMJudge("m")
    with pytest.raises(InputError, match="environment variable MY_KEY is not set"):
        LLMJudge("m", base_url="http://127.0.0.1:1/v1", api_key_env="MY_KEY")


def test_without_the_client_library_there_is_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without_openai(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openai":
            raise ImportError("no openai")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_openai)
    with pytest.raises(InputError, match=r"install it with: pip install 'mechstyle\[judge\]'"):
        LLMJudge("m", base_url="http://127.0.0.1:1/v1")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"base_url": "localhost:8000"}, InputError, "base_url: expected an address such as"),
    ({"base_url": "http://me:secret@host/v1"}, InputError, "expected no name, password or query"),
    ({"max_retries": -1}, RangeError, "max_retries: expected a number from 0 on, got -1"),
    ({"timeout": 0}, RangeError, "timeout: expected a number from"),
    ({"prices": 3.0}, RangeError, "prices: expected the cost of a million tokens"),
    ({"prices": (1.0, -1.0)}, RangeError, "prices: expected the cost of a million tokens"),
    ({"max_cost": 1.0}, RangeError, "max_cost: 1.0 cannot be kept without prices"),
    ({"max_cost": -1.0, "prices": (1, 1)}, RangeError, "max_cost: expected an amount"),
    ({"max_cost": 1.0, "prices": (1, 1), "parameters": {}}, RangeError, "put max_tokens into parameters"),
    ({"parameters": {"n": 3}}, InputError, "parameters: 'n' is set by the judge itself"),
    ({"prompt": "edit_sucess"}, FileError, "prompt: expected one of edit_success, style or the path"),
    (
        {"prompt": "style"},
        InputError,
        "labels: expected two or more different ones for the prompt 'style'",
    ),
]


@pytest.mark.parametrize(("settings", "error", "said"), WRONG)
def test_wrong_settings_are_refused_at_once(
    settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        LLMJudge("m", **{"base_url": "http://127.0.0.1:1/v1", **settings})


def test_a_text_without_its_targets_is_refused_before_anything_is_sent(make: Make) -> None:
    with serving(saying(NEW)) as server:
        with pytest.raises(TextError, match=r"texts\[1\]: the prompt 'edit_success' asks for 'new'"):
            make(server).judge([GUITAR, Judged(" horn.")])
        assert server.hits == 0
