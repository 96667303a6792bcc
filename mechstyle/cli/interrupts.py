"""Ctrl-C in long work over texts: answered where the work can be taken up again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mechstyle.documents import TextStream

__all__ = ["stopped_between"]


@contextmanager
def stopped_between(texts: Iterable[str]) -> Iterator[TextStream]:
    """The same texts; a first Ctrl-C is held back until the next of them is asked for, a second one is not.

    What works through texts asks for the next one when it is done with those before.

    Raises:
        KeyboardInterrupt: by the texts, after a Ctrl-C.

    Example:
        >>> with stopped_between(["one", "two"]) as texts:
        ...     list(texts)
        ['one', 'two']
    """
    asked = threading.Event()

    def read() -> Iterator[str]:
        for text in texts:
            if asked.is_set():
                raise KeyboardInterrupt
            yield text

    before = signal.getsignal(signal.SIGINT)
    # Signals can be handled in the main thread only; work in the background may be told to ignore them.
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield TextStream(read)
        return

    def hold(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, hold)
    try:
        yield TextStream(read)
    finally:
        signal.signal(signal.SIGINT, before)
