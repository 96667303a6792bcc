"""Keys, endpoints and settings of a language model as a judge."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mechstyle.errors import FileError, InputError, RangeError, TextError
from mechstyle.evaluation.judging import Judged, LLMJudge
from tests.evaluation.judging.chat_server import (
    GUITAR,
    NEW,
    Make,
    Reply,
    saying,
    serving,
)

KEY = "sk-a-secret-of-the-tests"


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
