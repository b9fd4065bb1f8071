"""What partial sharing buys: loss against parameters, and against what a token costs, of the objectives' study.

    python benchmarks/sharing.py

Reads docs/results/objectives.csv (its command: configs/studies/objectives.toml) and draws docs/results/sharing.png,
with docs/results/sharing.csv behind it. Elastic models at 12 (10 of the loop and 2 around it), 6, 4, 3 and 2 steps, and
what shares nothing at its own depth; all trained on the same 2 M tokens.
"""

from __future__ import annotations

from typing import Any

from timing import RESULTS, report

from jaxode.evaluation.figures import Panel, panel_figure, read_csv

LAYOUTS = {
    "random-even-told": "one block",
    "sequence-elastic": "two groups, A A B B",
    "prelude-coda-elastic": "one block between two others",
    "unshared-flops": "12 blocks of their own",
    "unshared-parameters": "1 block, once",
}


def main() -> None:
    """Table and figure."""
    kept = ("parameters", "training_flops", "trained_at", "n", "block_evaluations", "nats_per_token")
    rows = [
        {"layout": LAYOUTS[row["variant"]]} | {name: row[name] for name in kept}
        for row in read_csv(RESULTS / "objectives.csv")
        # what shares nothing has no other depth than its own
        if row["variant"] in LAYOUTS
        and row["solver"] == "euler"
        and (row["n"] == row["trained_at"] or not row["variant"].startswith("unshared"))
    ]
    report("sharing", rows)
    size: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    for name in LAYOUTS.values():
        same = sorted((row for row in rows if row["layout"] == name), key=lambda row: row["block_evaluations"])
        if not same:
            raise SystemExit(f"docs/results/objectives.csv has no rows of {name!r}: run the study first")
        own = next(row for row in same if row["n"] == row["trained_at"])
        size[name] = ([float(own["parameters"]) / 1e6], [own["nats_per_token"]])
        cost[name] = ([row["block_evaluations"] for row in same], [row["nats_per_token"] for row in same])
    loss = "validation loss (nats per token)"
    panels = [
        Panel(size, "parameters (millions)", loss, "At full depth, by parameters", logx=True),
        Panel(cost, "block evaluations a token", loss, "By what a token costs"),
    ]
    panel_figure(RESULTS / "sharing.png", panels, "What sharing costs, and what a little less of it buys")


if __name__ == "__main__":
    main()
