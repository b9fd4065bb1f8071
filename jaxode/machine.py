"""The machine at hand: how much memory is free, and how sizes are written."""

from __future__ import annotations

import os
from pathlib import Path

import jax

MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that JAX's first device can still take; None where nothing tells."""
    held = jax.local_devices()[0].memory_stats()
    if held and "bytes_limit" in held:
        return held["bytes_limit"] - held["bytes_in_use"]
    # counts what the page cache gives back, which sysconf does not
    if MEMINFO.exists():
        found = [line.split()[1] for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")]
        if found:
            return 1024 * int(found[0])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return None


def gigabytes(size: int) -> str:
    """Bytes as errors show them."""
    return f"{size / 1e9:.3g} GB"


def readable(size: int) -> str:
    """Bytes as the lines of a run show them."""
    return gigabytes(size) if size >= 1e9 else f"{size / 1e6:.3g} MB"
