"""Several corpora at once, each with its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxode.config.checks import require
from jaxode.config.task import TASKS_PREFIX


@dataclass(frozen=True)
class Share:
    """A corpus, by its name or by files, and its part of the rows, which is its weight over the sum of all."""

    corpus: str
    weight: float


def parse_mixture(field: str, entries: Sequence[str]) -> tuple[Share, ...]:
    """What entries such as "stdlib=1" and "wiki/*.parquet=2.5" say.

    Raises:
        UserError: an entry of another form, a weight that is not positive and finite, or a corpus that cannot be mixed
            or stands there twice.
    """
    shares: list[Share] = []
    for place, entry in enumerate(entries):
        name = f'{field}[{place}] = "{entry}"'
        corpus, _, number = entry.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
            corpus = ""
        require(
            bool(corpus.strip()),
            f'{name}: must be a corpus and its weight, such as "stdlib=1" or "wiki/*.parquet=2.5"',
        )
        require(
            0 < weight < math.inf,
            f"{name}: the weight must be a positive number; a corpus that nothing is to be read of is left out",
        )
        require(
            not corpus.startswith(TASKS_PREFIX) and corpus not in ("files", "mixture"),
            f"{name}: {corpus} cannot be mixed; name a corpus of texts (stdlib, books, ..), or a folder, a file or a "
            "glob of files",
        )
        require(corpus not in [share.corpus for share in shares], f"{name}: stands there twice; give one weight")
        shares.append(Share(corpus, weight))
    return tuple(shares)
