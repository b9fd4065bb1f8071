"""Text of TOML and JSON to plain values: whatever is wrong with it is a ValueError, and nothing else."""

from __future__ import annotations

import json
import tomllib
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value that stands there.

    Raises:
        ValueError: no JSON, no UTF-8, nested deeper than Python reads, or a key with two values.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, value in pairs if found[key] != value]
        if twice:
            raise ValueError(f'"{twice[0]}" stands there twice, with two values')
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """The tables that stand there.

    Raises:
        ValueError: no TOML, or nested deeper than Python reads.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
