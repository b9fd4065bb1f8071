"""What fewer steps cost, and what more of them buy: figures of the documents that read more than one measurement.

    python benchmarks/overview.py

Reads docs/results/fixed-causal.csv and elastic-told.csv (`infer.py --task sweep`; docs/questions/random-depth.md and
elastic-or-direct.md), depth.csv (`benchmarks/depth_tasks.py`), objectives.csv (configs/studies/objectives.toml),
bench-latency-by-steps.csv (`benchmarks/latency_by_steps.py`), stdlib-muon.csv and stdlib-layouts.csv
(docs/questions/optimizer.md), and draws docs/results/overview.png, objectives-flat.png, cost-of-a-solve.png and
optimizer.png. It measures nothing.
"""

from __future__ import annotations

from timing import RESULTS

from jaxode.evaluation.figures import Panel, Series, line_figure, panel_figure, read_csv

SWAPS = 12
"""The most that the models of the task were trained on."""
WAYS = {
    "step rescaling": ("fixed",),
    "calibrated": ("adapters", "fixed"),
    "elastic": ("told",),
}
"""Of the task: the model trained at full depth, the same with step adapters up to full depth, the elastic one."""
OBJECTIVES = {
    "fixed": "fixed depth",
    "exits": "losses at several depths",
    "distil": "self-distillation",
    "collinear": "collinear increments",
    "scaled-short": "scaled-down step",
    "random": "random depth",
    "random-even-told": "random depth, told t and h",
    "widen-told": "widening, told t and h",
}


def main() -> None:
    """Two figures."""
    evaluations = "block evaluations a token"
    text = Panel(_text(), evaluations, "validation loss (nats per token)", "Text: novels", logx=True)
    task = Panel(_task(), evaluations, "answers that are all right", f"A task: {SWAPS} swaps of 5 objects", logx=True)
    panel_figure(RESULTS / "overview.png", [text, task], "The same weights in fewer steps")
    losses = Panel(_objectives(), evaluations, "validation loss (nats per token)", logx=True)
    panel_figure(RESULTS / "objectives-flat.png", [losses], "Objectives at equal tokens")
    line_figure(RESULTS / "cost-of-a-solve.png", _latency(), "steps n", "time over the full depth's", "Cost of a solve")
    line_figure(
        RESULTS / "optimizer.png", _optimizers(), "learning rate", "nats per token", "After 400 updates", logx=True
    )


def _text() -> Series:
    fixed, elastic = read_csv(RESULTS / "fixed-causal.csv"), read_csv(RESULTS / "elastic-told.csv")
    full = [row for row in fixed if row["steps"] == 12]
    return {
        "step rescaling": _line([row for row in fixed if row["solver"] == "euler"], "nats_per_token"),
        "calibrated": _line([row for row in fixed if row["solver"] == "calibrated"] + full, "nats_per_token"),
        "elastic": _line([row for row in elastic if row["solver"] == "euler"], "nats_per_token"),
    }


def _task() -> Series:
    rows = [row for row in read_csv(RESULTS / "depth.csv") if row["task"] == "s5" and row["difficulty"] == SWAPS]
    series = {}
    for name, ways in WAYS.items():
        # a calibration ends below the full depth, which is the model itself
        best = {row["block_evaluations"]: row for way in reversed(ways) for row in rows if row["way"] == way}
        low = min(row["block_evaluations"] for row in rows if row["way"] == ways[0])
        series[name] = _line([row for steps, row in best.items() if low <= steps <= 12], "exact")
    return series


def _objectives() -> Series:
    rows = [row for row in read_csv(RESULTS / "objectives.csv") if row["solver"] == "euler"]
    return {
        title: _line([row for row in rows if row["variant"] == variant], "nats_per_token")
        for variant, title in OBJECTIVES.items()
    }


def _latency() -> Series:
    rows = read_csv(RESULTS / "bench-latency-by-steps.csv")
    steps = sorted({row["steps"] for row in rows})
    measured = {
        f"batch {batch}": _line([row for row in rows if row["batch"] == batch], "time_ratio", "steps")
        for batch in (1, 8)
    }
    return {**measured, "n / 12": (steps, [n / 12 for n in steps])}


def _optimizers() -> Series:
    plain = [row for row in read_csv(RESULTS / "stdlib-muon.csv") if row["prelude"] == 0]
    adamw = next(row for row in read_csv(RESULTS / "stdlib-layouts.csv") if row["flags"] is None)
    muon = {
        f"Muon, {steps} steps": _line(
            [row for row in plain if row["trained_at"] == steps], "nats_per_token", "learning_rate"
        )
        for steps in (12, 3)
    }
    return {**muon, "AdamW, 12 steps": ([4e-3], [adamw["validation_nats_per_token"]])}


def _line(rows: list[dict], quality: str, along: str = "block_evaluations") -> tuple[list[float], list[float]]:
    points = sorted((row[along], row[quality]) for row in rows)
    return [x for x, _ in points], [y for _, y in points]


if __name__ == "__main__":
    main()
