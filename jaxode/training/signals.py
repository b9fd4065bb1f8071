"""Ctrl-C and SIGTERM ask the loop to save and leave; a second one ends the process at once."""

from __future__ import annotations

import signal
from types import FrameType

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context in which the first signal only sets `signal`."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in _WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for watched in _WATCHED:
            signal.signal(watched, signal.SIG_DFL)
