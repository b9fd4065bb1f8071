"""Where jaxode keeps on this machine what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The variable JAXODE_CACHE, else ~/.cache/jaxode."""
    return Path(os.environ.get("JAXODE_CACHE") or "~/.cache/jaxode").expanduser()
