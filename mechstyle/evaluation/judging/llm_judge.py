"""A language model as a judge, behind any endpoint that speaks OpenAI's chat protocol; off by default."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mechstyle.cache import cache_folder
from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.evaluation.judging.accuracy import Accuracy
from mechstyle.evaluation.judging.judge import Judged, Verdict, as_judged, measure_accuracy
from mechstyle.evaluation.judging.llm_cache import Answer, AnswerCache
from mechstyle.evaluation.judging.llm_prompts import JudgePrompt, read_answer, read_prompt
from mechstyle.evaluation.judging.llm_usage import Meter, Prices, Usage, require_prices

if TYPE_CHECKING:
    from openai import APIError, OpenAI

__all__ = ["LLMJudge"]

_OPENAI: Final = "https://api.openai.com/v1"
_KEY: Final = "OPENAI_API_KEY"
_OURS: Final = ("messages", "model", "n", "seed", "stream")
_AGAIN: Final = (408, 409, 429)
_LONGEST_WAIT: Final = 60.0


def _parameters() -> Mapping[str, Any]:
    return {"temperature": 0, "max_tokens": 100}


@dataclass(frozen=True, eq=False)
class LLMJudge:
    """Asks a language model for the label of each text, one call for each question that is not in the cache.

    Nothing in the library makes one by itself: it sends texts to a server and may cost money. It needs the
    extra ``judge`` (``pip install 'mechstyle[judge]'``). Its accuracy is unknown until ``measured_on``.

    Args:
        model: as the server calls it.
        base_url: of the endpoint, ending in ``/v1`` mostly; None is OpenAI's own.
        api_key_env: environment variable with the key. None is OPENAI_API_KEY for OpenAI's own endpoint, and
            no key for any other one, so that a key goes only where it is meant to go.
        prompt: "edit_success", "style", or the path of a file; ``read_prompt`` says how it looks.
        labels: that may be answered; None takes those of the prompt's file.
        cache: folder of the answers; None is ``judge`` in mechstyle's cache.
        max_retries: of a call that found the server busy (429), broken (5xx), silent or out of reach.
        backoff: seconds before the first retry; each one waits twice as long as the one before, or as long
            as the server says, a minute at most.
        timeout: seconds that an answer may take.
        prices: what a million tokens cost, (sent, received).
        max_cost: stop before a call that could bring the cost of this judge above it.
        seed: sent along; None sends none.
        parameters: of the protocol, sent along; some models want ``max_completion_tokens`` instead of
            ``max_tokens``.
        accuracy: as ``measured_on`` finds it.

    Raises:
        InputError: no key or client library, or an argument is wrong.
        FileError: the prompt cannot be read.
        RangeError: a number is out of range, or ``max_cost`` has nothing to count with.

    Example:
        >>> judge = LLMJudge("llama3.1", base_url="http://127.0.0.1:11434/v1")  # doctest: +SKIP
        >>> texts = [Judged(" guitar.", "Miles plays the", new=" guitar", true=" horn")]
        >>> judge.judge(texts)  # doctest: +SKIP
        [Verdict(label='new', score=0.97, judge='llama3.1 (edit_success)', cost=None)]
    """

    model: str
    base_url: str | None = field(default=None, kw_only=True)
    api_key_env: str | None = field(default=None, kw_only=True)
    prompt: str | Path = field(default="edit_success", kw_only=True)
    labels: tuple[str, ...] = field(default=(), kw_only=True)
    cache: str | Path | None = field(default=None, kw_only=True)
    max_retries: int = field(default=5, kw_only=True)
    backoff: float = field(default=1.0, kw_only=True)
    timeout: float = field(default=60.0, kw_only=True)
    prices: Prices | None = field(default=None, kw_only=True)
    max_cost: float | None = field(default=None, kw_only=True)
    seed: int | None = field(default=0, kw_only=True)
    parameters: Mapping[str, Any] = field(default_factory=_parameters, kw_only=True)
    accuracy: Accuracy | None = field(default=None, kw_only=True)
    _meter: Meter | None = field(default=None, kw_only=True, repr=False)
    _question: JudgePrompt = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise InputError(f"model: expected the server's name of a model, got {self.model!r}.")
        _require_url(self.base_url)
        for name, low in (("max_retries", 0), ("backoff", 0), ("timeout", 1e-3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= low:
                raise RangeError(f"{name}: expected a number from {low} on, got {value!r}.")
        if taken := sorted(set(self.parameters) & set(_OURS)):
            raise InputError(f"parameters: {taken[0]!r} is set by the judge itself; leave it out.")
        longest = self.parameters.get("max_completion_tokens", self.parameters.get("max_tokens"))
        require_prices(self.prices, self.max_cost, longest)
        question = read_prompt(self.prompt, self.labels or None)
        self._key()
        _openai()
        settled = {"labels": question.labels, "_question": question}
        settled["parameters"] = MappingProxyType(dict(self.parameters))
        settled["_meter"] = self._meter or Meter(self.prices, self.max_cost, longest)
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The model and the question."""
        return f"{self.model} ({self._question.name})"

    @property
    def usage(self) -> Usage:
        """Calls, tokens and cost since this judge was made."""
        assert self._meter is not None
        return self._meter.usage

    def settings(self) -> dict[str, Any]:
        """Model, endpoint, question and parameters."""
        return {
            "judge": self.name,
            "model": self.model,
            "endpoint": self._endpoint,
            "prompt": self._question.name,
            "prompt_sha256": hashlib.sha256(self._question.text.encode()).hexdigest(),
            "labels": list(self.labels),
            "parameters": self._sent(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
        }

    def judge(self, texts: Sequence[str | Judged]) -> list[Verdict]:
        """A verdict for each text; an answer that names no label gives none.

        Raises:
            TextError: a text lacks a part that the question asks for; nothing was sent.
            InputError: the server refuses the question or the key.
            WorkError: the next call could exceed ``max_cost``, or the server did not answer after all
                retries. What was answered before is in the cache.
        """
        questions = [self._question.filled(index, one) for index, one in enumerate(as_judged(texts))]
        with self._client() as client:
            return [self._verdict(client, question) for question in questions]

    def measured_on(self, texts: Sequence[str | Judged], labels: Sequence[str]) -> LLMJudge:
        """The same judge with its accuracy on texts whose labels are known; it goes on counting its cost.

        Raises:
            InputError: the lists differ in length or are empty, or a label is not the judge's.
        """
        return replace(self, accuracy=measure_accuracy(self, texts, labels))

    @property
    def _endpoint(self) -> str:
        return (self.base_url or _OPENAI).rstrip("/")

    def _sent(self) -> dict[str, Any]:
        return {**self.parameters, **({} if self.seed is None else {"seed": self.seed})}

    def _key(self) -> str:
        """The key, read anew each time: no judge holds it."""
        name = self.api_key_env or (_KEY if self.base_url is None else None)
        key = "none" if name is None else os.environ.get(name, "")
        if not key:
            raise InputError(
                f"api_key_env: the environment variable {name} is not set; put the key of {self._endpoint} "
                "into it, or pass base_url=... of an endpoint that wants none."
            )
        return key

    def _client(self) -> OpenAI:
        make = _openai().OpenAI
        found: OpenAI = make(
            api_key=self._key(), base_url=self._endpoint, timeout=self.timeout, max_retries=0
        )
        return found

    def _verdict(self, client: OpenAI, question: str) -> Verdict:
        assert self._meter is not None
        cache = AnswerCache(Path(self.cache) if self.cache is not None else cache_folder() / "judge")
        messages = [{"role": "user", "content": question}]
        asked = {"endpoint": self._endpoint, "model": self.model, "messages": messages, **self._sent()}
        cost: float | None = 0.0
        answer = cache.find(asked)
        if answer is None:
            answer = self._answer(client, question)
            cost = self._meter.answered(question, answer)
            cache.keep(asked, answer)
        else:
            self._meter.count(cached=1)
        label, score = read_answer(answer.text, self.labels)
        self._meter.count(unjudged=int(label is None))
        return Verdict(label, score, self.name, cost)

    def _answer(self, client: OpenAI, question: str) -> Answer:
        """Ask the server, again and again while it is busy, broken or silent."""
        assert self._meter is not None
        openai = _openai()
        for attempt in range(self.max_retries + 1):
            self._meter.require_room(question)
            try:
                reply = client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": "user", "content": question}],
                    extra_body=self._sent(),
                )
            except openai.APIError as error:
                if isinstance(error, openai.APITimeoutError):
                    self._meter.broke_off(question)
                self._require_another_try(error, attempt)
                self._meter.count(retries=1)
                time.sleep(_wait(error, self.backoff * 2**attempt))
            else:
                return _read(reply, self._endpoint)
        raise AssertionError("the last try returns or raises")

    def _require_another_try(self, error: APIError, attempt: int) -> None:
        said = str(error).replace(self._key(), "...") if self._key() != "none" else str(error)
        status = getattr(error, "status_code", None)
        if status is not None and status not in _AGAIN and status < 500:
            raise InputError(
                f"{self._endpoint} refuses the question to {self.model!r} (status {status}): {said} "
                "Check model, api_key_env and parameters."
            ) from None
        if attempt == self.max_retries:
            raise WorkError(
                f"{self._endpoint} gave no answer in {attempt + 1} tries: {said} What was answered before is "
                "in the cache; run again later, or raise max_retries or timeout."
            ) from None


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "LLMJudge: needs the client library openai; install it with: pip install 'mechstyle[judge]'."
        ) from error
    return openai


def _wait(error: APIError, planned: float) -> float:
    """Seconds before the next try: as planned, or as long as the server says."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        told = float(headers.get("retry-after", 0))
    except ValueError:
        told = 0.0
    return min(_LONGEST_WAIT, max(planned, told))


def _read(reply: Any, endpoint: str) -> Answer:
    """What a chat completion says; a refusal says nothing."""
    try:
        text = reply.choices[0].message.content or ""
    except (AttributeError, IndexError, TypeError):
        raise WorkError(
            f"{endpoint} gives no chat completion; check base_url, which ends in /v1 mostly."
        ) from None
    usage = getattr(reply, "usage", None)
    counted = [getattr(usage, f"{name}_tokens", None) for name in ("prompt", "completion")]
    return Answer(str(text), *(one if isinstance(one, int) else None for one in counted))


def _require_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"base_url: expected an address such as http://127.0.0.1:8000/v1, got {url!r}.")
    if parts.username or parts.password or parts.query:
        raise InputError(
            "base_url: expected no name, password or query in it, because it stands in results; put the key "
            "into an environment variable and name it by api_key_env."
        )
