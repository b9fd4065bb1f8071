"""python -m jaxode [--version]: which version this is, and which commands the package has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxode import __version__
from jaxode.config import entry

COMMANDS = {
    "jaxode.training": "train a model; train.py of a checkout",
    "jaxode.inference": "generate, score, classify, encode, sweep, calibrate, export; infer.py of a checkout",
    "jaxode.data": "read and tokenise a corpus ahead",
    "jaxode.evaluation.study": "train variants of a recipe and compare them",
    "jaxode.evaluation.harness": "EleutherAI's evaluation harness",
}


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Say it. Returns the exit code."""
    listed = "\n".join(f"  python -m {name:<26} {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m jaxode",
        description=f"commands, each with --help:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxode {__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
