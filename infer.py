"""Use a trained run: python infer.py [--checkpoint RUN] [--prompt TEXT] [--steps 6] [--task score --file FILE].

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from jaxode.config import InferConfig, UserError, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do the task, print. Returns the exit code."""
    try:
        config = parse(InferConfig, argv)
        # after parsing, so that --help and a wrong flag cost no import of jax
        from jaxode.inference.main import run

        run(config, write=_write, note=_note)
    except UserError as error:
        _note(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader has left; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
