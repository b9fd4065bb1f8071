"""Places on this machine: where jaxode keeps what it can make again, and what ~ means."""

from __future__ import annotations

import os
from pathlib import Path

from jaxode.config.checks import require


def cache_root() -> Path:
    """The variable JAXODE_CACHE, else ~/.cache/jaxode."""
    return Path(expand("JAXODE_CACHE", os.environ.get("JAXODE_CACHE") or "~/.cache/jaxode"))


def expand(name: str, path: str) -> str:
    """A path with the home folder in the place of a leading ~, as shells write it; what exists as it stands stays.

    Args:
        name: of the field that holds it.
        path: a file, a folder, a glob, or the name of something else, which does not begin with ~.

    Raises:
        UserError: the home folder of somebody who is unknown here.
    """
    if not path.startswith("~") or (not path.startswith("~/") and os.path.lexists(path)):
        return path
    # a shell would leave such a path as it is, and a folder of that name would be made
    home = os.path.expanduser(path)
    user = path.split("/")[0]
    require(
        home != path, f'{name} = "{path}": no home folder of {user} is known here; write ./{path} if that is its name'
    )
    return home
