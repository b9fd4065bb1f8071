"""Compiled programs, kept on disk so that the next start compiles nothing."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax

from jaxode.config.places import cache_root

MOST = 256 << 20
"""Bytes of them that the cache folder holds; new lengths or settings add about a third of a megabyte a start."""


def keep_compiled(asked_for: str, note: Callable[[str], None]) -> None:
    """Let JAX keep every program that it compiles; called once a process, before the first is compiled.

    All models share one folder, since JAX tells programs apart by what they compute, where, and with which version.

    Args:
        asked_for: a folder, or "none" to keep nothing. When empty the variable JAXODE_COMPILED says so, then JAX's own
            JAX_COMPILATION_CACHE_DIR, else it is the cache folder's.
        note: takes a line where the folder cannot be written: nothing is kept then.
    """
    name = asked_for or os.environ.get("JAXODE_COMPILED") or ""
    if name == "none" or (not name and os.environ.get("JAX_COMPILATION_CACHE_DIR")):
        return
    folder = Path(name).expanduser() if name else cache_root() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # permissions say too little: root, full disks, read-only systems
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
        if not name:
            forget_oldest(folder, MOST)
    except OSError as error:
        note(f"compiled programs cannot be kept in {folder} ({error.strerror or error}): the next start compiles again")
        return
    # JAX warns of every single program, e.g. of one that a killed process left half written; it is compiled again
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # a machine's speed is no reason to compile again: most programs take less than JAX's second
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def forget_oldest(folder: Path, most: int) -> None:
    """Delete the oldest programs in `folder` where all of them take more than `most` bytes, until half of that is left.

    Not JAX's own limit: with it every write reads the whole folder, and a program that was kept without it stops them.
    """
    kept = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # another process may be faster
            with suppress(FileNotFoundError):
                if entry.name.endswith("-cache"):
                    kept.append((entry.stat().st_mtime_ns, entry.name, entry.stat().st_size))
    total = sum(size for _, _, size in kept)
    if total <= most:
        return
    for _, name, size in sorted(kept):
        (folder / name).unlink(missing_ok=True)
        total -= size
        if total <= most // 2:
            return
