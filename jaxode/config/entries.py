"""How a command speaks and ends: any text on any terminal, one line for what the user can mend, known exit codes."""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence

from jaxode.config.checks import UserError, shown

REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
"""What a system refuses that is full, read-only or broken."""


def entry(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    r"""Return 2 after a `UserError` (`error: …` on standard error) and where a disk is full or read-only, 130 after
    Ctrl-C, 141 where the reader has left.

    What the terminal's encoding lacks is written escaped, as ``\xe9``.
    """

    @functools.wraps(main)
    def ended(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            # a notebook's or a test's stream may be of another kind, and takes any text
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = main(argv)
            sys.stdout.flush()
            return code
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            _let_go()
            return 141
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            place = "" if error.filename is None else f"{shown(os.fsdecode(error.filename))}: "
            sys.stderr.write(f"error: {place}{error.strerror}\n")
            try:
                sys.stdout.flush()
            except OSError:  # it is what cannot be written
                _let_go()
            return 2

    return ended


def _let_go() -> None:
    """Of standard output: Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
