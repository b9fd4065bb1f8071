"""Processes that train together, by JAX's own distributed runtime; everything here is trivial for one alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxode.config import UserError
from jaxode.config.hosts import AUTO, HostsConfig

WAIT = 24 * 3600
"""Seconds that a process waits for the others at a meeting, such as for a corpus that one of them prepares."""
HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as gone: JAX then ends all others."""
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
"""How errors of JAX begin that say nothing about another process."""
DONE = "done"
# all processes meet in the same order, so that the same number means the same meeting
_MEETINGS = itertools.count()


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
