"""Which corpora a mixture names, and the settings that read each of them alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from jaxode.config import DataConfig, UserError
from jaxode.config.mixture import Share, parse_mixture
from jaxode.data.corpora import CORPORA
from jaxode.data.files import exists
from jaxode.data.registered import is_registered


def corpora_of(data: DataConfig) -> list[tuple[Share, DataConfig]]:
    """Each corpus of `data.mixture`, and the settings that read it alone; without a mixture, the only one.

    Raises:
        UserError: what is neither a corpus by name nor a file.
    """
    if not data.mixture:
        return [(Share(data.corpus, 1.0), data)]
    return [(share, _alone(share.corpus, data)) for share in parse_mixture("data.mixture", data.mixture)]


def _alone(name: str, data: DataConfig) -> DataConfig:
    files = name not in CORPORA and exists(name)
    if not files and name not in CORPORA and not is_registered(name):
        near = difflib.get_close_matches(name, list(CORPORA), n=1, cutoff=0.5)
        raise UserError(
            f'data.mixture: "{name}" is no file, folder or glob that names a file, and no corpus: those are '
            f"{', '.join(corpus for corpus in CORPORA if corpus != 'files')} and TFDS text sets"
            f"{f'; did you mean {near[0]!r}?' if near else ''}"
        )
    corpus, lines = ("files", data.lines) if files else (name, False)
    return replace(data, mixture=(), corpus=corpus, files=name if files else "", lines=lines)


@contextmanager
def naming(share: Share, data: DataConfig) -> Iterator[None]:
    """Let errors say which corpus they are of, where there are several."""
    try:
        yield
    except UserError as error:
        if not data.mixture:
            raise
        raise UserError(f'data.mixture, "{share.corpus}": {error}') from None
