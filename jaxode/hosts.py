"""Processes that train together, by JAX's own distributed runtime; everything here is trivial for one alone."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxode.config import UserError
from jaxode.config.hosts import AUTO, HostsConfig

WAIT = 24 * 3600
"""Seconds that a process waits for the others at a meeting, such as for a corpus that one of them prepares."""
HEARTBEAT = 100
"""Seconds without a sign of life after which a process counts as gone: JAX then ends all others."""
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
"""How errors of JAX begin that say nothing about another process."""
DONE = "done"
FAILED, HEARD, ALIVE = "jaxode/failed", "jaxode/heard", "jaxode/alive"
LOOK = 1.0
"""Seconds between two looks at whether another process has failed."""
SILENT = 20.0
"""Seconds without a sign of life after which a process counts as gone here, with a line, before JAX aborts others."""
LINGER, LAST = 20.0, 5.0
"""Seconds at most until all have heard of a failure, and that process 0 stays for the others to end: when it goes, JAX
aborts whoever is left.
"""
# all processes meet in the same order, so that the same number means the same meeting
_MEETINGS = itertools.count()
_MET, _ENDING, _AT_WORK = threading.Event(), threading.Event(), threading.Event()
_SIGNING = threading.Lock()


def join(config: HostsConfig) -> None:
    """Meet the other processes; before anything else is asked of JAX. What has met already stays so.

    Raises:
        UserError: they cannot be reached.
    """
    if not config.coordinator or jax.distributed.is_initialized():
        return
    told = {}
    if config.coordinator != AUTO:
        told = {
            "coordinator_address": config.coordinator,
            "num_processes": config.processes,
            "process_id": config.process,
        }
    try:
        jax.distributed.initialize(**told, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise UserError(
            f'train.hosts.coordinator = "{config.coordinator}": the processes do not meet ({line})'
        ) from None
    _MET.set()
    threading.Thread(target=_watch, name="hosts", daemon=True).start()


def met() -> bool:
    """Whether `join` has met others: JAX then waits for them when Python ends, and whoever fails ends by itself."""
    return _MET.is_set()


@contextmanager
def ending_together(agreed: type[BaseException]) -> Iterator[None]:
    """What ends this process ends the others as well, wherever they wait: each says what failed, and where; but for
    what all have `agreed` on.
    """
    _AT_WORK.set()
    try:
        yield
    except BaseException as error:
        if met() and not isinstance(error, agreed):
            _tell(f"process {jax.process_index()}: {str(error) or type(error).__name__}")
        raise
    finally:
        _AT_WORK.clear()
        if met():
            _sign(0)


def _tell(line: str) -> None:
    """Leave a line to the others, and wait until they have read it."""
    if _ENDING.is_set():
        time.sleep(2 * LINGER)  # this process ends already, by what another one has said
    _ENDING.set()
    with suppress(jax.errors.JaxRuntimeError):  # another one was first, or the coordinator is gone
        _client().key_value_set(FAILED, line)
    _hear()
    _stay()


def _watch() -> None:
    """End this process when another one has failed: its main thread may wait for that one, and hears nothing."""
    after = _Silence((jax.process_index() + 1) % jax.process_count())
    for number in itertools.count(1):
        if _ENDING.wait(LOOK):
            return
        _sign(number)
        line = _read(FAILED) or after.line()
        if line is not None and not _ENDING.is_set():
            _ENDING.set()
            sys.stderr.write(f"\nerror: {line}; the run ends: start all processes again with --resume\n")
            sys.stderr.flush()
            _hear()
            if first():
                _stay()
            os._exit(2)


def _read(key: str) -> str | None:
    """What a process has left there; None where none has."""
    try:
        return _client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # there is no such key
        return None


def _sign(number: int) -> None:
    """A sign of life, another one each time; or that this process is at work no more."""
    with _SIGNING, suppress(jax.errors.JaxRuntimeError):
        sign = str(number) if _AT_WORK.is_set() else DONE
        _client().key_value_set(f"{ALIVE}/{jax.process_index()}", sign, allow_overwrite=True)


class _Silence:
    """Of the process after this one: each looks at one other, so that all are looked at."""

    def __init__(self, process: int):
        self._process, self._sign, self._since = process, DONE, time.monotonic()

    def line(self) -> str | None:
        """That it is gone, for all to read; None while it gives signs, and before and after its work."""
        sign = _read(f"{ALIVE}/{self._process}")
        if sign not in (None, self._sign):
            self._sign, self._since = sign, time.monotonic()
            return None
        if self._sign == DONE or time.monotonic() - self._since <= SILENT:
            return None
        line = f"process {self._process} has given no sign of life for {SILENT:.0f} s: it was killed, or hangs"
        with suppress(jax.errors.JaxRuntimeError):
            _hear(self._process)  # it never will: nobody is to wait for it
            _client().key_value_set(FAILED, line)
        return line


def _stay() -> None:
    """Until all have heard."""
    until = time.monotonic() + LINGER
    with suppress(jax.errors.JaxRuntimeError):
        while len(_client().key_value_dir_get(HEARD)) < jax.process_count() and time.monotonic() < until:
            time.sleep(LOOK / 10)
    if first():
        time.sleep(LAST)


def _hear(process: int | None = None) -> None:
    with suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(f"{HEARD}/{jax.process_index() if process is None else process}", DONE)


class Gone(UserError):
    """Another process of the run has ended; what JAX would wait for at exit does not come any more."""


def gone(error: Exception, kept: str) -> Exception:
    """What an error of a collective means; `kept` says where to go on from. One that means something else stays."""
    if str(error).startswith(OWN):
        return error
    reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
    return Gone(
        f"process {jax.process_index()} of {jax.process_count()}: another process of the run is gone ({reason}); "
        f"{kept}: start them all again with --resume"
    )


def several() -> bool:
    """Whether other processes train with this one."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process writes what one of them has to: logs, the run's config, what people read."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """A line for whoever watches the run, beside its progress bar; once for all processes."""
    if first():
        tqdm.write(line, sys.stderr)


def barrier(name: str) -> None:
    """Wait for all processes, however long; one that dies ends the others."""
    if several():
        _client().wait_at_barrier(f"{name} {next(_MEETINGS)}", WAIT * 1000)


@contextmanager
def first_then_others(name: str) -> Iterator[None]:
    """Process 0 alone, and when it is done all others, who find what it has left on a disk that they share.

    Raises:
        UserError: in the others, where process 0 failed.
    """
    if not several():
        yield
        return
    key = f"{name} {next(_MEETINGS)}"
    if not first():
        said = _client().blocking_key_value_get(key, WAIT * 1000)
        if said != DONE:
            raise UserError(f"process 0: {said}")
        yield
        return
    try:
        yield
    except BaseException as error:
        _client().key_value_set(key, str(error) or type(error).__name__)
        raise
    _client().key_value_set(key, DONE)


def _client() -> Any:
    # JAX's public barrier is a collective on the devices, whose first one gives up after half a minute
    from jax._src.distributed import global_state

    return global_state.client


def any_of(flag: bool) -> bool:
    """Whether it is so in any process; all of them ask."""
    if not several():
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def whole(tree: Any) -> Any:
    """Arrays of the host out of arrays of which other processes hold parts; all of them ask."""
    from jax.experimental import multihost_utils

    def fetched(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetched, tree)
