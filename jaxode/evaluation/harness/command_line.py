"""The harness' own command line, with this model where none is named."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxode.config import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the harness' own command line with this model.

    Raises:
        SystemExit: with one line, where something cannot be used.
    """
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] not in (["ls"], ["validate"]):
        given = ["run", *(given[1:] if given[:1] == ["run"] else given)]
        told = [argument.partition("=")[0] for argument in given]
        if not {"--config", "-C"} & set(told):
            given += [] if {"--model", "-M"} & set(told) else ["--model", "jaxode"]
            given += [] if {"--batch_size", "-b"} & set(told) else ["--batch_size", "auto"]  # the harness says 1
    kept = sys.argv
    sys.argv = ["jaxode.evaluation.harness", *given]
    try:
        cli_evaluate()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        sys.argv = kept
