"""A judge behind a server on this machine, out of reach of what a user has set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mechstyle.evaluation.judging import LLMJudge
from tests.evaluation.judging.chat_server import ChatServer, Make


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
