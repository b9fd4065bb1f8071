"""python -m jaxode.training [--config FILE.toml] [--model.width 256 ...], which is also train.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxode.config import Config, entry, parse

if TYPE_CHECKING:
    from jaxode.training.loop import TrainResult


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, show loss against depth, say where the result is. Returns the exit code."""
    config = parse(Config, argv)
    if config.resume:
        config = parse(Config, argv, base=Path(config.out) / "config.toml")

    # after parsing, so that --help and a wrong flag cost no import of jax
    from jaxode.hosts import Gone, barrier, first
    from jaxode.training.loop import train

    try:
        result = train(config)
    except Gone as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(2)  # at its exit JAX would wait for the one that is gone
    folder = result.run.path
    if result.validation is None:
        again = _command("train.py", "jaxode.training")
        print(f"stopped at update {result.step}; go on with: {again} --resume --out {folder}", file=sys.stderr)
        return 128 + (result.stopped_by or 0)
    try:
        if first():
            _conclude(config, result)
    finally:
        barrier("end")  # whoever leaves earlier ends the others
    return 0


def _conclude(config: Config, result: TrainResult) -> None:
    """Write and say what the run was."""
    from jaxode.training.summary import sweep, write_summary
    from jaxode.training.validation import told

    assert result.validation is not None
    folder = result.run.path
    write_summary(result)
    best = f"; the best, of update {result.chosen}, counts" if config.train.best else ""
    print(f"{told(result.validation)} after {result.step} updates{best}")
    if config.train.sweep:
        print(sweep(result))
    use = _command("infer.py", "jaxode.inference")
    print(f"the run is in {folder}; use it with: {use} --checkpoint {folder}")


def _command(script: str, module: str) -> str:
    """How to call one of the entries: as this one was called."""
    return f"python {script}" if Path(sys.argv[0]).name == "train.py" else f"python -m {module}"


if __name__ == "__main__":
    sys.exit(main())
