"""Text of TOML and JSON to plain values: whatever is wrong with it is a ValueError, and nothing else."""

from __future__ import annotations

import json
import tomllib
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value that stands there.

    Raises:
        ValueError: no JSON, no UTF-8, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The tables that stand there.

    Raises:
        ValueError: no TOML, or nested deeper than Python reads.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
