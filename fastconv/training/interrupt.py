"""Ctrl-C asks training to save and stop; a second one ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


class StopRequest:
    """Falsy until someone asks for a stop."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """While the block runs, SIGINT and SIGTERM set the yielded request instead of killing.

    After the first one the signal has its default effect again, so that a second Ctrl-C works
    also while a long kernel runs. Outside the main thread, where Python allows no handlers, the
    request can only be set by hand.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    owner = os.getpid()

    def ask(number: int, frame: object) -> None:
        stop.requested = True
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == owner:  # loader workers inherit the handler
            sys.stderr.write("\nstopping after this step; once more to quit at once\n")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
