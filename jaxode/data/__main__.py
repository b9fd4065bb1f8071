"""python -m jaxode.data [--config FILE.toml] ...: read and tokenise the text of a training run before it begins.

Takes the flags of training; prints the sizes of the corpus as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from jaxode.config import Config, entry, parse


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, prepare, print. Returns the exit code."""
    config = parse(Config, argv)
    # after parsing, so that --help and a wrong flag cost no import of jax
    from jaxode import plugins
    from jaxode.data.labelled import prepare_labelled
    from jaxode.data.prepared import prepare

    plugins.load(*config.plugins)
    if config.data.train:
        data = prepare_labelled(config.data, config.model)
    else:
        data = prepare(config.data, config.model.length, config.model.learns)
    print(json.dumps({split: dataclasses.asdict(stats) for split, stats in data.stats.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
