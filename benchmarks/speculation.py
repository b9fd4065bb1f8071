"""Lossless self-speculation on the shipped models: how much faster, and whether a single token differs.

    JAXODE_DATA=DATA python benchmarks/speculation.py --prompts 100

Prompts of 16 tokens from the books' validation text, 256 new tokens, greedy; plain decoding at full depth and drafts
at the calibrated depths take turns on the same prompts, compiled before. Bars: 2 x at one row, 1.4 x at 8, and no
token that differs. "price" is what a check costs at least: the bare matrix products of its tokens over those of one
token a row, measured in the same run; no draft, however cheap, can give more than the tokens a round over it.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from floor import matrix_products
from timing import report

import jaxode
from jaxode import DepthConfig, ModelConfig
from jaxode.evaluation.timing import median_times
from jaxode.inference import Greedy, Speculation, generate_batch
from jaxode.inference.generation.speculation import speculate

PROMPT, NEW = 16, 256
NAMES = ("books-causal", "books-causal-elastic")
FIXED = ((4, 2), (3, 4))
"""Steps and tokens of drafts that do not adapt."""


def prompts(trained: Any, count: int) -> list[list[int]]:
    """Every so many bytes of the text."""
    text = (Path(os.environ["JAXODE_DATA"]) / "books" / "valid.txt").read_text(encoding="utf-8")
    stride = len(text) // (count + 1)
    return [trained.tokenizer.encode(text[i * stride : i * stride + 200])[:PROMPT] for i in range(1, count + 1)]


def run(trained: Any, batch: list[list[int]], speculation: Speculation | None) -> tuple[float, Any]:
    """Seconds and what came of every row."""
    began = time.perf_counter()
    done = generate_batch(
        trained.architecture,
        trained.params,
        trained.tokenizer,
        batch,
        sampling=Greedy(),
        max_new_tokens=NEW,
        speculation=speculation,
    )
    return time.perf_counter() - began, done


def price_of_a_check(model: ModelConfig, rows: int, tokens: int) -> float:
    """Time of the matrix products of so many tokens a row, over those of one."""
    times = median_times({n: matrix_products(model, rows * n, 100) for n in (1, tokens)}, rounds=7)
    return times[tokens] / times[1]


def different(done: Any, plain: Any) -> int:
    """Tokens that plain decoding gives otherwise."""
    return sum(a != b for own, one in zip(done, plain, strict=True) for a, b in zip_longest(own.ids, one.ids))


def main(count: int) -> None:
    """Measure each model, batch size and kind of draft."""
    found = []
    for name in NAMES:
        trained = jaxode.load(name)
        price = partial(price_of_a_check, trained.config.model)
        depths = {n: DepthConfig(steps=n, solver="calibrated") for n in (2, 3, 4)}
        drafts = {
            "none": None,
            **{f"{n} steps, {k} tokens": Speculation((depths[n],), (k,)) for n, k in FIXED},
            "adaptive": Speculation(tuple(depths.values())),
        }
        for rows in (1, 8):
            texts = prompts(trained, count)
            batches = [texts[i : i + rows] for i in range(0, len(texts) - rows + 1, rows)]
            seconds, tokens, accepted, differ = (dict.fromkeys(drafts, 0.0) for _ in range(4))
            evaluations = dict(seconds)
            for draft in drafts.values():
                for _ in range(2):
                    run(trained, batches[0], draft)
            for batch in batches:
                plain = None
                for key, draft in drafts.items():
                    programs = speculate._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
                    taken, done = run(trained, batch, draft)
                    if speculate._cache_size() > programs:  # pyright: ignore[reportAttributeAccessIssue]
                        # it met a kind of draft that was not compiled yet
                        taken, done = run(trained, batch, draft)
                    plain = done if draft is None else plain
                    seconds[key] += taken
                    tokens[key] += sum(one.new_tokens for one in done)
                    accepted[key] += (done[0].acceptance or 0.0) / len(batches)
                    evaluations[key] += done[0].block_evaluations_per_token / len(batches)
                    differ[key] += different(done, plain)
            for key, draft in drafts.items():
                fixed = None if draft is None or len(draft.lengths) > 1 else draft.lengths[0]
                found.append(
                    {
                        "model": name,
                        "rows": rows,
                        "draft": key,
                        "prompts": len(batches) * rows,
                        "tokens_per_second": tokens[key] / seconds[key],
                        "over_plain": (tokens[key] / seconds[key]) / (tokens["none"] / seconds["none"]),
                        "acceptance": accepted[key],
                        "price": None if fixed is None else price(rows, fixed + 1),
                        "block_evaluations_per_token": evaluations[key],
                        "tokens_that_differ": int(differ[key]),
                    }
                )
            report("bench-speculation", found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=100)
    main(parser.parse_args().prompts)
