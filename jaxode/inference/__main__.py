"""python -m jaxode.inference [--checkpoint RUN] [--prompt TEXT] [--steps 6] ..., which is also infer.py.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxode.config import InferConfig, entry, parse


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do the task, print. Returns the exit code."""
    config = parse(InferConfig, argv)
    # after parsing, so that --help and a wrong flag cost no import of jax
    from jaxode.inference.tasks.main import run

    run(config, write=_write, note=_note)
    return 0


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
