"""A small server on this machine that speaks the chat protocol, and says what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mechstyle.evaluation.judging import Judged, LLMJudge

__all__ = [
    "GUITAR", "NEW", "TRUMPET", "Answering", "ChatServer", "Make", "Reply", "by_meaning", "saying", "serving",
]  # fmt: skip

GUITAR = Judged(" guitar.", "Miles Davis plays the", new=" guitar", true=" trumpet")
TRUMPET = Judged(" trumpet.", "Miles Davis plays the", new=" guitar", true=" trumpet")
NEW = '{"label": "new", "score": 0.9}'

Make = Callable[..., LLMJudge]
"""A judge behind a server, with settings of one's own."""


@dataclass(frozen=True)
class Reply:
    """What is sent back: an answer's text, or a status with an error."""

    text: str | None = ""
    status: int = 200
    usage: tuple[int, int] | None = (100, 10)
    headers: tuple[tuple[str, str], ...] = ()
    after: float = 0.0
    raw: str | None = None


@dataclass
class ChatServer:
    """Where it listens, and everything that it was asked so far."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def hits(self) -> int:
        return len(self.bodies)

    def question(self, index: int = -1) -> str:
        return self.bodies[index]["messages"][0]["content"]


Answering = Callable[[str, int], Reply]
"""The question and how many were asked before it -> the reply."""


def saying(*texts: str | None) -> Answering:
    """One answer after the other, the last one for ever."""
    return lambda question, hit: Reply(texts[min(hit, len(texts) - 1)])


def by_meaning(question: str, hit: int) -> Reply:
    """Says what stands between the tags of the question's text."""
    text = question.split("<text>")[1].split("</text>")[0]
    return Reply(json.dumps({"label": "new" if "guitar" in text else "true", "score": 0.75}))


@contextmanager
def serving(answering: Answering) -> Iterator[ChatServer]:
    """Serve until the block ends."""
    state = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            hit = state.hits
            state.bodies.append(body)
            state.paths.append(self.path)
            state.keys.append(self.headers["authorization"])
            reply = answering(body["messages"][0]["content"], hit)
            if reply.after:
                time.sleep(reply.after)
            content = (json.dumps(document(reply)) if reply.raw is None else reply.raw).encode()
            try:
                self.send_response(reply.status)
                kind = "application/json" if reply.raw is None else "text/html"
                for name, value in (
                    ("content-type", kind), ("content-length", str(len(content))), *reply.headers
                ):  # fmt: skip
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a caller that waited too long has gone

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def document(reply: Reply) -> dict[str, Any]:
    if reply.status != 200:
        return {"error": {"message": reply.text, "type": "test", "code": None}}
    found: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny-judge",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply.text}}
        ],
    }
    if reply.usage is not None:
        sent, received = reply.usage
        found["usage"] = {
            "prompt_tokens": sent,
            "completion_tokens": received,
            "total_tokens": sent + received,
        }
    return found
