"""How far each step moves the state, at full depth and in few steps.

    python benchmarks/increments.py

Prints the lengths of all increments on a line of text, averaged over its tokens, and keeps them as
docs/results/increments.csv, with the cosines of neighbouring increments: of the shipped elastic model, and of runs that
their studies (configs/studies/) have left under runs/studies/. Other models may be named instead.
"""

from __future__ import annotations

import argparse

import jax.numpy as jnp
from timing import report

import jaxode
from jaxode import DepthConfig

SHORT, LONGEST = (4, 3, 2), 12
TEXT = "The road was long and the evening cold when they came back to the village."

MODELS = (
    "runs/studies/objectives/random-even-told-s0",
    "books-causal-elastic",
    "runs/studies/equal-flops/elastic-s0",
    "runs/studies/objectives/widen-told-equal-flops-s0",
    "runs/studies/objectives/widen-one-told-s0",
    "runs/studies/equal-flops/widen-one-told-s0",
    "runs/studies/equal-flops/widen-three-told-s0",
    "runs/studies/objectives/fixed-s0",
    "runs/studies/objectives/prelude-coda-s0",
    "runs/studies/bytes/elastic-s0",
    "runs/studies/bytes/widen-three-told-s0",
    "runs/studies/bytes/widen-two-last-told-s0",
    "runs/studies/bytes/widen-two-late-told-s0",
    "runs/studies/bytes/direct-3-told-s0",
    "runs/studies/width-256/widen-one-told-s0",
    "runs/studies/masked/widen-one-told-s0",
)


def main() -> None:
    """Table and CSV."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS, help="folders, or names of shipped models")
    rows = []
    for name in parser.parse_args().models:
        found = jaxode.load(name)
        full = found.config.model.steps
        for steps in (full, *SHORT):
            depth = DepthConfig(steps=steps, solver="euler")
            trace = found.model(jnp.array([found.own_tokenizer.encode(TEXT)]), depth, trace=True).trace
            assert trace is not None
            h = full / steps
            sizes = [round(h * float(norm), 3) for norm in trace.field_norm]
            cosines = [round(float(cosine), 3) for cosine in trace.cosine]
            rows.append(
                {"model": name, "n": steps}
                | {f"step {i}": _at(sizes, i) for i in range(LONGEST)}
                | {f"cosine {i}-{i + 1}": _at(cosines, i) for i in range(LONGEST - 1)}
            )
    report("increments", rows)


def _at(numbers: list[float], place: int) -> float | str:
    return numbers[place] if place < len(numbers) else ""


if __name__ == "__main__":
    main()
