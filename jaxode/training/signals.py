"""Signals that ask the loop to save and leave; a later second one ends the process at once.

Ctrl-C (INT) and TERM; HUP of a closed terminal; USR1 and USR2, which schedulers send before they end a job. Python runs
handlers in the main thread between two of its instructions, and a compilation is a single one: it goes on in a thread
of its own while the main thread listens.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import TypeVar

from jaxode.config import UserError

T = TypeVar("T")
_ALWAYS = ("SIGINT", "SIGTERM")
# nohup ignores HUP, and libraries that put jobs back into a queue catch USR1 or USR2: theirs stays
_WHERE_FREE = ("SIGHUP", "SIGUSR1", "SIGUSR2")
ECHO = 1.0
"""Seconds in which a second signal is the first one again: launchers forward what their whole group has received."""
LISTEN = 0.2
"""Seconds between two looks at whether a signal has come, where other work is waited for."""
ASIDE = "work that a signal interrupts"


class Stopped(UserError):
    """What was going on is left unfinished because a signal came."""

    def __init__(self, number: signal.Signals, message: str = "") -> None:
        super().__init__(message or f"stopped by {number.name}")
        self.signal = number


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
            self._check()
            yield item

    def during(self, work: Callable[[], T]) -> T:
        """What the work returns; it is left to its thread when a signal comes.

        Raises:
            Stopped: a signal came, before or meanwhile.
        """
        self._check()
        if not self._before:
            return work()
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        # a daemon: XLA can be told neither to stop nor to hurry
        threading.Thread(target=run, name=ASIDE, daemon=True).start()
        while not wait([result], LISTEN).done:
            self._check()
        return result.result()

    def _check(self) -> None:
        if self.signal is not None:
            raise Stopped(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def abandoned() -> bool:
    """Whether work that a signal interrupted still goes on: Python would crash when it takes it down at exit."""
    return any(thread.name == ASIDE for thread in threading.enumerate())


def _watched() -> list[signal.Signals]:
    """Windows has neither HUP nor USR1 and USR2."""
    free = [name for name in _WHERE_FREE if hasattr(signal, name)]
    return [
        *(signal.Signals[name] for name in _ALWAYS),
        *(signal.Signals[name] for name in free if signal.getsignal(signal.Signals[name]) is signal.SIG_DFL),
    ]
