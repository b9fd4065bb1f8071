"""How far each step moves the state, at full depth and at three steps, in models that were trained to run at fewer.

    python benchmarks/increments.py

Prints the lengths of all increments on a line of text, averaged over its tokens, and keeps them as
docs/results/increments.csv: of the shipped elastic model, and of runs that their studies (configs/studies/) have left
under runs/studies/. Other models may be named instead.
"""

from __future__ import annotations

import argparse

import jax.numpy as jnp
from timing import report

import jaxode
from jaxode import DepthConfig

SHORT = 3
TEXT = "The road was long and the evening cold when they came back to the village."

MODELS = (
    "runs/studies/objectives/random-even-told-s0",
    "books-causal-elastic",
    "runs/studies/objectives/widen-told-equal-flops-s0",
    "runs/studies/objectives/widen-one-told-s0",
    "runs/studies/equal-flops/widen-one-told-s0",
    "runs/studies/equal-flops/widen-three-told-s0",
    "runs/studies/bytes/elastic-s0",
    "runs/studies/bytes/widen-three-told-s0",
    "runs/studies/bytes/widen-two-last-told-s0",
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
        for steps in (full, SHORT):
            trace = found.model(jnp.array([found.tokenizer.encode(TEXT)]), DepthConfig(steps=steps), trace=True).trace
            assert trace is not None
            h = full / steps
            sizes = [round(h * float(norm), 3) for norm in trace.field_norm]
            blank = [""] * (full - steps)
            rows.append({"model": name, "n": steps} | {f"step {i}": size for i, size in enumerate(sizes + blank)})
    report("increments", rows)


if __name__ == "__main__":
    main()
