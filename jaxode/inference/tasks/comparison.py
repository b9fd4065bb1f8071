"""Ways to decode side by side: the texts, and tokens a second measured in turn."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from jaxode.config import DepthConfig, InferConfig
from jaxode.data import Tokenizer
from jaxode.evaluation.figures import table
from jaxode.inference.generation.cache import cache_bytes_per_token, resolved_cache
from jaxode.inference.generation.continuation import Generation
from jaxode.inference.generation.generate import generate, generate_batch
from jaxode.inference.generation.prompts import SEEDS
from jaxode.inference.generation.speculation import Speculation
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.depths import begun
from jaxode.inference.tasks.generation import check_request, draft_depths, generation_settings
from jaxode.inference.tasks.output import Write
from jaxode.model import block_evaluations

BENCH_PROMPT = "Once upon a time"
CACHES = ("loop", "last", "first", "modulo:2")
"""Rules for the cache whose sizes stand beside the one in use."""
SECONDS = 15.0
"""What all rounds may take together, as far as `FEWEST` allow."""
FEWEST, MOST = 3, 31

Name = TypeVar("Name")


@dataclass(frozen=True)
class Pace:
    """What rounds of one way to decode came to, each round a call."""

    rates: tuple[float, ...]
    """New tokens of all rows a second, the first one's wait among it."""
    rounds: tuple[tuple[Generation, ...], ...]
    """The rows of every call."""

    @property
    def median(self) -> float:
        """Of the rates."""
        return statistics.median(self.rates)

    @property
    def columns(self) -> dict[str, float | int]:
        """Median and quartiles of the rates, for a table."""
        low, high = np.quantile(self.rates, [0.25, 0.75])
        return {"tokens_per_second": _digits(self.median), "25%": _digits(low), "75%": _digits(high)}


def measure(ways: Mapping[Name, Callable[[], tuple[Generation, ...]]]) -> dict[Name, Pace]:
    """Call every way once, which compiles it, and then all of them in turn, so that a slow moment hits them all.

    As many rounds as `SECONDS` allow, at least `FEWEST` and at most `MOST`. A bar shows on standard error where that is
    a terminal.
    """
    rates: dict[Name, list[float]] = {name: [] for name in ways}
    made: dict[Name, list[tuple[Generation, ...]]] = {name: [] for name in ways}
    with tqdm(total=len(ways) * (1 + MOST), desc="measure", unit="run", leave=False, disable=None) as bar:
        for run in ways.values():
            run()
            bar.update()
        began, rounds, done = time.perf_counter(), MOST, 0
        while done < rounds:
            for name, run in ways.items():
                start = time.perf_counter()
                rows = run()
                rates[name].append(sum(row.new_tokens for row in rows) / (time.perf_counter() - start))
                made[name].append(rows)
                bar.update()
            done += 1
            if done == 1:
                rounds = max(FEWEST, min(MOST, int(SECONDS / (time.perf_counter() - began))))
                bar.total = len(ways) * (1 + rounds)
    return {name: Pace(tuple(rates[name]), tuple(made[name])) for name in ways}


def compare(
    loaded: LoadedModel,
    config: InferConfig,
    depths: Sequence[DepthConfig],
    write: Write,
    note: Write,
) -> None:
    """The same prompt with the same seed at several depths: every text, then a table of what it took.

    Raises:
        UserError: a prompt or a depth that does not fit.
    """
    settings = {depth: generation_settings(loaded, config, depth) for depth in depths}
    for chosen in settings.values():
        check_request(loaded, config.prompt, chosen, config.chat)
    note(config.prompt)

    def run(depth: DepthConfig, on_token: Write | None = None) -> tuple[Generation, ...]:
        return (
            generate(loaded, config.prompt, seed=config.seed, on_token=on_token, chat=config.chat, **settings[depth]),
        )

    for depth in depths:
        write(f"{depth.steps} steps ({depth.solver}):\n")
        run(depth, write)
        write("\n\n")
    paces = measure({depth: lambda depth=depth: run(depth) for depth in depths})
    rows = []
    for depth, pace in paces.items():
        done = pace.rounds[-1][0]
        about = {"steps": depth.steps, "solver": depth.solver, "tokens": done.new_tokens}
        cost = {"block_evaluations_per_token": done.block_evaluations_per_token}
        rows.append(about | cost | pace.columns | {"speedup": pace.median / paces[depths[0]].median})
    write(table(rows, list(rows[0])) + "\n")
    note(f"tokens a second: {_rounds(paces)}")


def bench(loaded: LoadedModel, config: InferConfig, depth: DepthConfig, note: Write) -> str:
    """A table of every way to decode."""
    model, calibrations = loaded.config.model, loaded.calibrations
    full = block_evaluations(model, depth)
    ways: list[tuple[DepthConfig, Speculation | None]] = [(depth, None)]
    fitted = [begun(config, fit.depth) for fit in calibrations.values()]
    ways += [(short, None) for short in fitted if block_evaluations(model, short) < full]
    cache = resolved_cache(model, config.cache, config.cache_share)
    cheap = draft_depths(model, depth, calibrations) if config.cache_share == 1 and cache == "loop" else ()
    if cheap:
        # one way, which is tried even where it does not pay
        best = max(cheap, key=lambda draft: block_evaluations(model, draft))
        ways.append((depth, Speculation((best,), (4,))))
    settings = generation_settings(loaded, config, depth)
    paces = measure({way: _batch(loaded, config, settings, *way) for way in ways})
    rows = [_bench_row(*way, pace) for way, pace in paces.items()]
    note(cache_sizes(loaded, depth, cache, config.cache_share))
    note(f"tokens a second: {_rounds(paces)}; no text ends before {config.max_new_tokens} tokens here")
    return table(rows, list(rows[0])) + "\n"


def cache_sizes(loaded: LoadedModel, depth: DepthConfig, cache: str, share: int) -> str:
    """Bytes of the cache a token by the rule in use, and by others."""
    model, kind = loaded.config.model, loaded.model.matmul_type.name
    others = (other for other in CACHES if (other, 1) != (cache, share))

    def size(cache: str, share: int = 1) -> str:
        return f"{cache_bytes_per_token(model, depth, cache=cache, cache_share=share, dtype=kind):,}"

    named = cache if share == 1 else f"cache_share = {share}"
    return f"cache: {size(cache, share)} bytes a token ({named}, {kind}); " + ", ".join(
        f"{other} {size(other)}" for other in others
    )


def _batch(
    loaded: LoadedModel,
    config: InferConfig,
    settings: Mapping[str, Any],
    depth: DepthConfig,
    speculation: Speculation | None,
) -> Callable[[], tuple[Generation, ...]]:
    """A call of one way to decode."""
    rows = config.batch_size or 1
    chosen: dict[str, Any] = {**settings, "depth": depth, "speculation": speculation}
    endless = dataclasses.replace(loaded, tokenizer=_endless(loaded.own_tokenizer))
    seeds = [(config.seed + row) % SEEDS for row in range(rows)]
    prompts = [config.prompt or BENCH_PROMPT] * rows
    return lambda: generate_batch(endless, prompts, seeds=seeds, chat=config.chat, **chosen)


def _endless(tokenizer: Tokenizer) -> Tokenizer:
    """The same where no token ends a text: a text that ends early would be mostly the wait for its first token."""
    endless = copy.copy(tokenizer)
    endless.end_id = tokenizer.vocab_size
    return endless


def _bench_row(depth: DepthConfig, speculation: Speculation | None, pace: Pace) -> dict[str, Any]:
    last = pace.rounds[-1]
    drafted = "none"
    if speculation is not None:
        drafted = f"4 tokens in {speculation.depths[0].steps} steps, {last[0].acceptance or 0:.0%} accepted"
    first = statistics.median(rows[0].seconds_first for rows in pace.rounds)
    return {
        "steps": "full" if depth.steps is None else depth.steps,
        "solver": depth.solver,
        "drafts": drafted,
        "rows": len(last),
        **pace.columns,
        "milliseconds_to_first": 1e3 * first,
        "block_evaluations_per_token": last[0].block_evaluations_per_token,
    }


def _rounds(paces: Mapping[Any, Pace]) -> str:
    rounds = len(next(iter(paces.values())).rates)
    return f"median and quartiles of {rounds} runs of each, in turn, after one that compiled and is not counted"


def _digits(rate: float) -> float | int:
    """As many as a measured rate has."""
    return round(rate) if rate >= 100 else round(float(rate), 1)
