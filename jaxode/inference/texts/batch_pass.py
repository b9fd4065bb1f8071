"""One forward pass over many rows, batch by batch, with the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Int
from tqdm import tqdm

from jaxode.config import DepthConfig, require
from jaxode.depth import get_solver
from jaxode.evaluation import diverged
from jaxode.inference.memory import check_memory
from jaxode.inference.mesh import deal_rows
from jaxode.inference.texts.batching import RowBatch, bucketed
from jaxode.model import Transformer, block_evaluations, plan
from jaxode.model.parameters import Architecture, Parameters


@dataclass(frozen=True)
class Throughput:
    """What a pass over texts took."""

    texts: int
    rows: int
    """Rows that went through the model: one a text, or one a token where each is masked in turn."""
    shapes: int
    """Batch shapes, each of which compiles once in a process."""
    block_evaluations: int
    """Applications of a block in one forward pass."""
    solver: str
    """The one that ran."""
    seconds: float
    """All of it, compilation included."""
    seconds_first: float
    """Of these, in the first batch of every shape."""

    @property
    def texts_per_second(self) -> float:
        """Over all seconds."""
        return self.texts / self.seconds


@dataclass(frozen=True)
class Solved:
    """What a compiled function gave for every row, or for every token of the rows, in the order of the input."""

    values: np.ndarray
    throughput: Throughput


@dataclass(frozen=True)
class BatchPass:
    """How rows go through a model.

    A row's numbers do not depend on its batch: padding is not looked at, rows do not see each other, and solvers whose
    steps the whole batch decides are refused.
    """

    architecture: Architecture
    params: Parameters
    depth: DepthConfig
    batch_size: int
    progress: str | None = None
    """Name of a bar over tokens, padding included, shown where standard error is a terminal; None shows none."""

    def check(self) -> Transformer:
        """The model, once the depth fits it.

        Raises:
            UserError: a depth that does not fit, or a solver that chooses its own steps.
        """
        model: Transformer = self.architecture.bind(self.params)
        depth = model.resolve(self.depth)
        require(
            not get_solver(depth.solver).adaptive,
            f'depth.solver = "{depth.solver}": chooses its steps for a batch as a whole, so a text\'s result '
            "would depend on its neighbours; choose a solver with fixed steps",
        )
        plan(model.config, depth)
        model.coefficients(depth)
        return model

    def __call__(
        self,
        program: Callable[..., Any],
        inputs: Callable[[RowBatch], tuple[np.ndarray, ...]],
        lengths: Int[np.ndarray, " rows"],
        *,
        texts: int,
        predicted: int | None,
        by_token: bool = False,
        dtype: DTypeLike = np.float64,
    ) -> Solved:
        """Run a compiled function over all rows.

        Args:
            program: (params, *inputs, architecture=, depth=) to an array with a row for every one of its batch.
            inputs: the arrays of a batch: tokens [B L], segments [B L] and what else `program` takes.
            lengths: tokens of every row.
            texts: how many the rows stand for.
            predicted: positions of a row that get logits over the vocabulary; None is all.
            by_token: the function gives a row's numbers token by token; they are kept without the padding, the rows one
                after the other.
            dtype: in which the numbers are kept.

        Raises:
            UserError: the largest batch does not fit into memory.
            Diverged: a real row's numbers are not finite.
        """
        model: Transformer = self.architecture.bind(self.params)
        config, depth = model.config, model.resolve(self.depth)
        batches = bucketed(lengths, self.batch_size, config.length)
        check_memory(config, batches[0], predicted)
        values, seen, ends = None, set(), np.cumsum(lengths)
        started, first = time.perf_counter(), 0.0
        bar = tqdm(
            total=sum(batch.size * batch.length for batch in batches),
            desc=self.progress,
            unit="token",
            unit_scale=True,
            leave=False,
            disable=True if self.progress is None else None,
        )
        with bar:
            for batch in batches:
                start = time.perf_counter()
                given = deal_rows(self.params, inputs(batch))
                out = program(self.params, *given, architecture=self.architecture, depth=depth)
                found = np.asarray(jax.device_get(out))[: len(batch.rows)]
                if not np.isfinite(found).all():
                    raise diverged(
                        "a prediction", self.architecture, self.params, given[0], {"segments": given[1]}, depth
                    )
                if values is None:
                    kept = (ends[-1], *found.shape[2:]) if by_token else (len(lengths), *found.shape[1:])
                    values = np.empty(kept, dtype)
                if by_token:
                    for place, row in zip(batch.rows, found, strict=True):
                        values[ends[place] - lengths[place] : ends[place]] = row[: lengths[place]]
                else:
                    values[batch.rows] = found
                if batch.length not in seen:
                    seen.add(batch.length)
                    first += time.perf_counter() - start
                bar.update(batch.size * batch.length)
        assert values is not None  # token_rows refuses an empty input
        evaluations = block_evaluations(config, depth)
        seconds = time.perf_counter() - started
        return Solved(values, Throughput(texts, len(lengths), len(seen), evaluations, depth.solver, seconds, first))
