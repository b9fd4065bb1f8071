"""python -m jaxode.training [--config FILE.toml] [--model.width 256 ...], which is also train.py."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from jaxode.config import Config, UserError, entry, parse, parse_fields

if TYPE_CHECKING:
    from jaxode.training.run import TrainResult


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, show loss against depth, say where the result is. Returns the exit code."""
    begun = parse_fields(Config, argv, ("resume", "out"))
    # over defaults a flag could be refused that fits the run's own settings
    base = Path(begun["out"]) / "config.toml" if begun["resume"] and begun["out"] else None
    config = parse(Config, argv, base=base)

    # after parsing, so that --help and a wrong flag cost no import of jax
    from jaxode.hosts import barrier, first, met
    from jaxode.inference.programs import keep_compiled
    from jaxode.training.run import train
    from jaxode.training.signals import Stopped

    keep_compiled("", lambda line: print(line, file=sys.stderr))
    try:
        result = train(config)
    except Stopped as stopped:
        return _stopped(str(stopped), stopped.signal)
    except Exception as error:
        if not met():
            raise
        # at its exit JAX would wait for the others, who are gone
        if isinstance(error, UserError):
            sys.stderr.write(f"error: {error}\n")
            _leave(2)
        traceback.print_exc()
        _leave(1)
    folder = result.run.path
    if result.validation is None:
        again = _command("train.py", "jaxode.training")
        said = f"stopped at update {result.step}; go on with: {again} --resume --out {folder}{_brought(config)}"
        return _stopped(said, result.stopped_by or 0)
    try:
        if first():
            _conclude(config, result)
    finally:
        barrier("end")  # whoever leaves earlier ends the others
    return 0


def _stopped(line: str, number: int) -> int:
    """Say so, and the exit code that shells know; what still compiles is left to end with the process."""
    from jaxode.training.signals import abandoned

    print(line, file=sys.stderr)
    if abandoned():
        _leave(128 + number)
    return 128 + number


def _leave(code: int) -> NoReturn:
    """End at once, without what Python and its libraries do at their exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
    print(f"the run is in {folder}; use it with: {use} --checkpoint {folder}{_brought(config)}")


def _brought(config: Config) -> str:
    """The flag that gives the same plug-ins again."""
    return f" --plugins {' '.join(config.plugins)}" if config.plugins else ""


def _command(script: str, module: str) -> str:
    """How to call one of the entries: as this one was called."""
    return f"python {script}" if Path(sys.argv[0]).name == "train.py" else f"python -m {module}"


if __name__ == "__main__":
    sys.exit(main())
