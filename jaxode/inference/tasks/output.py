"""Where what a task finds goes: results to one, lines about the run and its cost to the other."""

from __future__ import annotations

from collections.abc import Callable

Write = Callable[[str], None]
