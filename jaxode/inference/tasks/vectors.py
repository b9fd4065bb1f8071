"""Task encode of infer.py: vectors of the lines of a file, in a NumPy file; and how many an encoder makes a second."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxode.config import DepthConfig, InferConfig, UserError
from jaxode.evaluation.figures import table
from jaxode.evaluation.timing import median_times
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.line_tables import BATCH_SIZE, Lines, line_settings, tell
from jaxode.inference.texts.batch_pass import Throughput
from jaxode.inference.texts.encoding import encode_texts, text_states
from jaxode.model import block_evaluations

BENCH_LENGTH = 128
"""Tokens of a row that is timed."""
ROUNDS = 9


def encode_lines(
    loaded: LoadedModel, lines: Lines, config: InferConfig, depth: DepthConfig, note: Callable[[str], None]
) -> Throughput:
    """Write `vectors` [texts, D], with pooling "none" [tokens, D], and `lines` and `lengths` of the texts.

    Args:
        loaded: any model.
        lines: its texts.
        config: the file, the pooling, batch size, and whether long texts are cut.
        depth: of every solve.
        note: takes lines about the pass.

    Raises:
        UserError: as `encode_texts`, or the file cannot be written.
    """
    path = Path(config.out).expanduser()
    _check_writable(path)
    done = encode_texts(loaded, lines.texts, pooling=config.pooling, **line_settings(lines, config, depth, "encode"))
    _write(path, {"vectors": done.vectors, "lines": np.asarray(lines.numbers), "lengths": done.lengths})
    tell(lines, done.truncated, done.unknown, done.throughput, note)
    what = "states of tokens" if config.pooling == "none" else "vectors"
    note(f"{len(done.vectors)} {what} of {done.vectors.shape[1]} numbers; written: {path}")
    return done.throughput


def encoder_bench(loaded: LoadedModel, config: InferConfig, depth: DepthConfig, note: Callable[[str], None]) -> str:
    """A table of texts a second at a depth and at every calibrated one, on rows of tokens drawn at random."""
    model, tokenizer = loaded.config.model, loaded.own_tokenizer
    size, length = config.batch_size or BATCH_SIZE, min(BENCH_LENGTH, model.length)
    tokens = np.random.default_rng(config.seed).choice(tokenizer.ordinary_ids, (size, length)).astype(np.int32)
    real = np.ones_like(tokens)
    full = block_evaluations(model, depth)
    depths = [depth, *(fit.depth for fit in loaded.calibrations.values() if block_evaluations(model, fit.depth) < full)]

    def run(depth: DepthConfig) -> Any:
        chosen = loaded.model.resolve(depth)
        given = {"architecture": loaded.architecture, "depth": chosen, "pooling": config.pooling}
        return text_states(loaded.params, tokens, real, **given)

    times = median_times({one: partial(run, one) for one in depths}, ROUNDS)
    rows = [
        {
            "steps": "full" if one.steps is None else one.steps,
            "solver": one.solver,
            "rows": size,
            "tokens": length,
            "texts_per_second": 1e3 * size / times[one],
            "milliseconds": times[one],
            "relative_time": times[one] / times[depth],
            "block_evaluations": block_evaluations(model, one),
        }
        for one in depths
    ]
    note(f"medians of {ROUNDS} runs of each, in turn, after one that compiled and is not counted")
    return table(rows, list(rows[0])) + "\n"


def _check_writable(path: Path) -> None:
    """Now, not after minutes of encoding."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _aside(path).touch()
        _aside(path).unlink()
    except OSError as error:
        raise UserError(f"{path}: the vectors cannot be written there: {error.strerror or error}") from None


def _write(path: Path, arrays: dict[str, Any]) -> None:
    """An older file stays until this one is complete."""
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path}: the vectors cannot be written there: {error.strerror or error}") from None


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
