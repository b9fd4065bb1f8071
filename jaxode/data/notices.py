"""What a person should hear while a corpus is prepared, though it is no reason to stop."""

from __future__ import annotations

import sys

from tqdm import tqdm


def notice(line: str) -> None:
    """Write one line to standard error, above a progress bar that may stand there."""
    tqdm.write(line, sys.stderr)
