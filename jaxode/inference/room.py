"""Whether something fits into memory, asked before it is allocated."""

from __future__ import annotations

import os

import jax

from jaxode.config import require


def available_bytes() -> int | None:
    """Free memory of the device that computes; None where it cannot be told."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu" or not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_room(needed: int, what: str, remedy: str = "use fewer rows") -> None:
    """Refuse what does not fit.

    Raises:
        UserError: `what` needs more bytes than are free.
    """
    free = available_bytes()
    require(
        free is None or needed <= free,
        f"{what} needs {needed / 1e9:.2f} GB of memory and {(free or 0) / 1e9:.2f} GB are free: {remedy}",
    )
