"""One elastic model, or one for each depth? Loss against training FLOPs, and against depth where they are equal.

    python benchmarks/elastic_or_direct.py

Reads what the studies objectives, equal-flops, seeds and books-causal have measured (docs/results/*.csv, each by its
command in configs/studies/) and draws docs/results/elastic-or-direct.png, with its CSV. D 128, N = 12, Euler's even
steps; means over the seeds of a size.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from timing import RESULTS, report

from jaxode.evaluation.figures import Panel, panel_figure, read_csv

RECIPES = {
    "trained at 12 steps": ("fixed",),
    "trained at 12, told": ("fixed-told",),
    "trained at 6, told": ("direct-6-told",),
    "trained at 4, told": ("direct-4-told",),
    "trained at 3 steps": ("direct-3", "direct-3-equal-flops"),
    "trained at 3, told": ("direct-3-told", "direct-3-told-equal-flops"),
    "trained at 2, told": ("direct-2-told",),
    "trained at 1-3, growing, told": ("direct-3-grow-told",),
    "elastic: all alike": ("random-even-told", "elastic"),
    "elastic: widening from 2": ("widen-told", "widen-told-equal-flops"),
    "elastic: widening from 2, late": ("widen-two-late-told",),
    "elastic: widening from 3": ("widen-three-told",),
    "elastic: widening from 1": ("widen-one-told", "widen-one-told-equal-flops"),
}
EQUAL_FLOPS = (7e13, 9e13)
"""Where every depth was trained for itself as well."""
STUDIES = ("objectives", "equal-flops", "seeds", "study-books-causal")


def main() -> None:
    """Table and figure."""
    names = {variant: name for name, variants in RECIPES.items() for variant in variants}
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for study in STUDIES:
        for row in read_csv(RESULTS / f"{study}.csv"):
            elastic = names.get(row["variant"], "").startswith("elastic")
            if row["variant"] in names and row["solver"] == "euler" and (elastic or row["n"] == row["trained_at"]):
                found.setdefault((names[row["variant"]], row["trained_tokens"], row["n"]), []).append(row)
    rows = [
        {
            "recipe": name,
            "n": steps,
            "trained_tokens": tokens,
            "training_flops": statistics.fmean(row["training_flops"] for row in same),
            "parameters": same[0]["parameters"],
            "seeds": len(same),
            "nats_per_token": statistics.fmean(row["nats_per_token"] for row in same),
            "deviation": statistics.stdev([row["nats_per_token"] for row in same]) if len(same) > 1 else "",
        }
        for (name, tokens, steps), same in sorted(found.items(), key=lambda item: list(RECIPES).index(item[0][0]))
    ]
    report("elastic-or-direct", rows)
    panels = []
    for steps, title in ((3, "Run at 3 block evaluations"), (12, "Run at full depth, 12")):
        lines: dict[str, Any] = {}
        for name in RECIPES:
            points = sorted(
                (row["training_flops"], row["nats_per_token"])
                for row in rows
                if row["recipe"] == name and row["n"] == steps
            )
            if points:
                lines[name] = ([x for x, _ in points], [y for _, y in points])
        panels.append(Panel(lines, "training FLOPs", "validation loss (nats per token)", title, logx=True))
    panels.append(_equal_flops(rows))
    panel_figure(RESULTS / "elastic-or-direct.png", panels, "One elastic model, or one for each depth")


def _equal_flops(rows: list[dict[str, Any]]) -> Panel:
    """Loss against steps at the largest training FLOPs: each elastic model, and the best model of each depth."""
    losses: dict[str, dict[int, float]] = {}
    for row in rows:
        if EQUAL_FLOPS[0] < row["training_flops"] < EQUAL_FLOPS[1]:
            name = row["recipe"] if row["recipe"].startswith("elastic") else "one trained at each depth"
            found = losses.setdefault(name, {})
            found[row["n"]] = min(row["nats_per_token"], found.get(row["n"], math.inf))
    lines = {name: (sorted(found), [found[steps] for steps in sorted(found)]) for name, found in losses.items()}
    return Panel(lines, "block evaluations", "validation loss (nats per token)", "For 7.4e13 training FLOPs", logx=True)


if __name__ == "__main__":
    main()
