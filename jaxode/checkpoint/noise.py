"""What a failed read leaves on standard error long after it has raised: a traceback for each of its threads."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what a read in this block says beside its exception; other reports are heard as before."""
    asyncio, previous = logging.getLogger("asyncio"), sys.unraisablehook
    muted = heard in asyncio.filters
    asyncio.addFilter(heard)
    if not isinstance(previous, partial) or previous.func is not report:
        sys.unraisablehook = partial(report, previous)
    yield
    # both stay when the read fails: its threads and futures report one by one, whenever they are collected
    sys.unraisablehook = previous
    if not muted:
        asyncio.removeFilter(heard)


def heard(record: logging.LogRecord) -> bool:
    """Whether a record of asyncio's is about something else than a read of checkpoints."""
    text = record.getMessage()
    return not ("never retrieved" in text and f"{os.sep}checkpoints{os.sep}" in text)


def report(previous: Any, unraisable: Any) -> None:
    """Hand on to the hook before this one what does not come from a read."""
    code = getattr(getattr(unraisable, "object", None), "cr_code", None)
    reader = code is not None and "orbax" in code.co_filename
    if not reader and str(unraisable.exc_value) != "Event loop is closed":
        previous(unraisable)
