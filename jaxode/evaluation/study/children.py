"""The processes of a study: each with a log of its own, all stopped with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The study was asked to stop."""


class Children:
    """Runs modules of this package as processes; a context in which a signal to the study stops them.

    Training saves a checkpoint at SIGTERM and leaves; a second signal ends it at once.

    Args:
        one_core: keep every process to one thread of computation, so that several do not fight for the cores.
        programs: where they all keep what they compile, unless JAX's or jaxode's own variable says otherwise. Runs of
            one shape compile the same programs, which takes longer than a small run's training.
    """

    def __init__(self, one_core: bool = False, programs: Path | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        # a second signal may come while the first one is handled
        self._lock = threading.RLock()
        self._environment = dict(os.environ)
        if one_core:
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
            self._environment |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": flags}
        folder = os.environ.get("JAXODE_COMPILED") or programs
        if folder and folder != "none" and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            # and not where training keeps them by itself: those of a study go with it
            self._environment |= {
                "JAX_COMPILATION_CACHE_DIR": str(Path(folder).expanduser().absolute()),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }

    def __enter__(self) -> Children:
        self._before = {number: signal.signal(number, self._stop) for number in _WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call(self, command: Sequence[str], log: Path) -> str | None:
        """Run `python -m command`, appending what it writes to `log`; returns the last line of a failure, else None.

        Raises:
            Stopped: the study was asked to stop, before or meanwhile.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            begin = output.tell()
            with self._lock:
                if self.signal is not None:
                    raise Stopped
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    # Ctrl-C in a terminal reaches its whole group: the second signal would end a training at once
                    start_new_session=True,
                )
                self._running.add(process)
            code = None
            while code is None:
                # not one long wait, which a signal that another thread receives would not interrupt
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(0.5)
            with self._lock:
                self._running.discard(process)
        if code == 0:
            return None
        if self.signal is not None:
            raise Stopped
        with log.open("rb") as output:
            output.seek(begin)
            lines = output.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{said.removeprefix('error: ')} (exit code {code}; {log})"

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        with self._lock:
            for process in self._running:
                process.send_signal(signal.SIGTERM)
