"""How a command speaks and ends: any text on any terminal, one line for what the user can mend, known exit codes."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Sequence

from jaxode.config.checks import UserError


def entry(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    r"""Return 2 after a `UserError` (`error: …` on standard error), 130 after Ctrl-C, 141 where the reader has left.

    What the terminal's encoding lacks is written escaped, as ``\xe9``.
    """

    @functools.wraps(main)
    def ended(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            # a notebook's or a test's stream may be of another kind, and takes any text
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return main(argv)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            # Python would complain again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    return ended
