"""Does a network flow along depth, or does it turn? Norms, cosines and distances between depths, model by model.

    python benchmarks/turning.py --albert DATA/plbert --file DATA/plbert/phonemes-valid.txt --frame "$ $"

The shipped models on a page of English beside an ALBERT on lines of its own kind; without --albert the shipped ones
alone. Keeps docs/results/turning.csv (a row a depth) and turning.png: the field's size over the state's, the cosine of
consecutive increments, and how far states lie apart that are k steps apart, over one step.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import RESULTS, report

import jaxode
from jaxode import DepthConfig
from jaxode.evaluation.figures import Panel, panel_figure
from jaxode.inference.texts.token_ids import Frame, token_rows
from jaxode.model.parameters import split

SHIPPED = ("books-causal", "books-masked")
PAGE = "The road was long and the evening cold when they came back to the village. Nobody spoke of what they had seen."
LINES = 64
APART = 6
"""Steps that states lie apart at most."""


def follow(name: str, texts: Sequence[str], frame: Frame) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """Rows along depth, and the mean distance of states k steps apart over that of neighbours."""
    loaded = jaxode.load(name)
    architecture, params = split(loaded.model)
    model = loaded.config.model
    rows = token_rows(loaded.own_tokenizer, texts, model.length, frame=frame, truncate=True)

    @jax.jit
    def states(params: Any, tokens: jax.Array) -> jax.Array:
        trace = architecture.bind(params).hidden(tokens, DepthConfig(solver="euler"), trace=True).trace
        return trace.states

    # text by text: nothing is padded, and few lengths are compiled for
    kept = sorted(rows.ids, key=len)
    groups = [kept[i : i + 8] for i in range(0, len(kept), 8)]
    cut = [np.asarray([row[: len(group[0])] for row in group], np.int32) for group in groups]
    found = [np.asarray(states(params, jnp.asarray(tokens))) for tokens in cut]
    path = np.concatenate([one.reshape(len(one), -1, model.width) for one in found], axis=1)
    name = Path(name).name
    steps = np.diff(path, axis=0)
    sizes, norms = np.linalg.norm(steps, axis=-1), np.linalg.norm(path, axis=-1)
    turns = np.sum(steps[1:] * steps[:-1], axis=-1) / (sizes[1:] * sizes[:-1])
    apart = {
        k: float(np.mean([np.linalg.norm(path[t + k] - path[t], axis=-1).mean() for t in range(len(path) - k)]))
        for k in range(1, APART + 1)
    }
    table = [
        {
            "model": name,
            "t": t,
            "state_norm": float(norms[t].mean()),
            "field_norm": float(sizes[t].mean()) if t < len(sizes) else None,
            "cosine": float(turns[t - 1].mean()) if 0 < t < len(sizes) else None,
            **{
                f"to t+{k}": float(np.linalg.norm(path[t + k] - path[t], axis=-1).mean()) if t + k < len(path) else None
                for k in range(1, APART + 1)
            },
        }
        for t in range(len(path))
    ]
    return table, {k: value / apart[1] for k, value in apart.items()}


def main() -> None:
    """Follow every model, keep the rows, draw the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--albert", default="", help="folder of a Hugging Face ALBERT to set beside the shipped models")
    parser.add_argument("--file", default="", help="lines of its own kind of text")
    parser.add_argument("--frame", default="", help='two entries of its vocabulary around each line, such as "$ $"')
    given = parser.parse_args()
    asked: list[tuple[str, Sequence[str], Frame]] = [(name, [PAGE], None) for name in SHIPPED]
    if given.albert:
        texts = [line for line in Path(given.file).read_text(encoding="utf-8").split("\n") if line][:LINES]
        frame: Frame = None
        if given.frame:
            before, after = given.frame.split()
            frame = (before, after)
        asked.append((given.albert, texts, frame))
    rows, distances = [], {}
    for name, texts, frame in asked:
        table, apart = follow(name, texts, frame)
        rows += table
        distances[Path(name).name] = apart
    report("turning", rows)
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault(row["model"], []).append(row)

    def panel(label: str, value: Any, yscale: Any = "linear") -> Panel:
        series = {}
        for name, points in curves.items():
            known = [(row["t"], value(row)) for row in points if value(row) is not None]
            series[name] = ([t for t, _ in known], [y for _, y in known])
        return Panel(series, "depth-time t", label, yscale=yscale)

    panel_figure(
        RESULTS / "turning.png",
        [
            panel("||f|| / ||x||", lambda row: row["field_norm"] and row["field_norm"] / row["state_norm"], "log"),
            panel("cosine of consecutive increments", lambda row: row["cosine"]),
            Panel(
                {name: (list(apart), list(apart.values())) for name, apart in distances.items()},
                "steps apart",
                "distance of states, over that of neighbours",
            ),
        ],
        "A network that flows, and one that turns",
    )


if __name__ == "__main__":
    main()
