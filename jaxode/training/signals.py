"""Signals that ask the loop to save and leave; a later second one ends the process at once.

Ctrl-C (INT) and TERM; HUP of a closed terminal; USR1 and USR2, which schedulers send before they end a job.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
_ALWAYS = ("SIGINT", "SIGTERM")
# nohup ignores HUP, and libraries that put jobs back into a queue catch USR1 or USR2: theirs stays
_WHERE_FREE = ("SIGHUP", "SIGUSR1", "SIGUSR2")
ECHO = 1.0
"""Seconds in which a second signal is the first one again: launchers forward what their whole group has received."""


class Stopped(Exception):
    """What was going on is left unfinished because a signal came."""


class StopRequest:
    """A context in which the first signal only sets `signal`; outside of the main thread nothing is watched."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _watched()}
        else:
            sys.stderr.write(
                "training runs outside of the main thread, where Python sees no signals: "
                "Ctrl-C or a signal saves no checkpoint\n"
            )
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: what was there is no handler of Python's
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # pyright: ignore[reportArgumentType]

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items, one by one.

        Raises:
            Stopped: a signal came.
        """
        for item in items:
            if self.signal is not None:
                raise Stopped
            yield item

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def _watched() -> list[signal.Signals]:
    """Windows has neither HUP nor USR1 and USR2."""
    free = [name for name in _WHERE_FREE if hasattr(signal, name)]
    return [
        *(signal.Signals[name] for name in _ALWAYS),
        *(signal.Signals[name] for name in free if signal.getsignal(signal.Signals[name]) is signal.SIG_DFL),
    ]
