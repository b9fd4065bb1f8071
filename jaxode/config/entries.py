"""How a command ends: one line for what the user can mend, and exit codes as shells know them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence

from jaxode.config.checks import UserError


def entry(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Return 2 after a `UserError` (`error: …` on standard error), 130 after Ctrl-C, 141 where the reader has left."""

    @functools.wraps(main)
    def ended(argv: Sequence[str] | None = None) -> int:
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
