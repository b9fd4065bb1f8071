"""What fewer steps cost frozen weights: calibrated solvers beside truncation, step rescaling and fitted step sizes.

    python benchmarks/calibrated_depth.py runs/books-causal-12 [more runs]
    python benchmarks/calibrated_depth.py --ablate runs/books-causal-12         (what each part buys, n = N/3)

Fits on training text, reports on the validation split. Writes docs/results/calibrated-NAME.csv and .png, or
docs/results/ablation-NAME.csv.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from jaxode.calibration import Fit, calibrate, calibration_batches, with_calibrations
from jaxode.checkpoint import load_run
from jaxode.config import DepthConfig
from jaxode.data import prepare
from jaxode.evaluation import Diverged, evaluate
from jaxode.evaluation.figures import line_figure, table, write_csv
from jaxode.model import block_evaluations

ROOT = Path(__file__).resolve().parent.parent
VALIDATION_ROWS, VALIDATION_BATCHES = 16, 24

METHODS: dict[str, tuple[str, str] | Fit] = {
    "truncation": ("euler", "unit"),
    "step rescaling": ("euler", "even"),
    "secant": ("secant", "even"),
    "fitted steps": Fit(memory=1, rank=0),
    "calibrated": Fit(),
}

ABLATION = {
    "step sizes, least squares": Fit(memory=1, rank=0, updates=0),
    "step sizes": Fit(memory=1, rank=0),
    "memory of 1": Fit(memory=2, rank=0),
    "memory of 2": Fit(memory=3, rank=0),
    "correction of rank 8": Fit(rank=8),
    "rank 32, least squares": Fit(updates=0),
    "rank 32, no memory": Fit(memory=1),
    "rank 32": Fit(),
    "rank 128": Fit(rank=128),
    "rank 32, 160 updates": Fit(updates=160),
    "rank 32, a quarter of the text": Fit(),
}


def measure(path: Path, ablate: bool) -> None:
    """Every method at every number of steps of one run."""
    trained = load_run(path)
    model, data = trained.config.model, trained.config.data
    prepared = prepare(data, model.length, model.kind, tokenizer=trained.tokenizer)
    text = calibration_batches(prepared)
    held_out = list(prepared.validation(VALIDATION_ROWS, None))
    held_out = held_out[:: max(1, len(held_out) // VALIDATION_BATCHES)][:VALIDATION_BATCHES]

    def loss(params: dict, depth: DepthConfig) -> float:
        try:
            return evaluate(trained.architecture, params, held_out, depth).nats_per_token
        except Diverged:
            return math.inf

    full = loss(trained.params, DepthConfig())
    rows = []
    for divisor in (3,) if ablate else (2, 3, 4, 6):
        steps = model.steps // divisor
        for name, method in (ABLATION if ablate else METHODS).items():
            if isinstance(method, Fit):
                some = [*text[:2], *text[-2:]] if "quarter" in name else text
                done = calibrate(trained.model, some, steps, method)
                nats = loss(with_calibrations(trained.params, {steps: done}), done.depth)
                extra = {"schedule": " ".join(map(str, done.schedule)), "seconds": done.seconds, "fit_kl": done.kl}
            else:
                solver, schedule = method
                nats = loss(trained.params, DepthConfig(steps=steps, solver=solver, schedule=schedule))
                extra = {"schedule": schedule, "seconds": None, "fit_kl": None}
            rows.append(
                {
                    "method": name,
                    "steps": steps,
                    "block_evaluations": block_evaluations(model, DepthConfig(steps=steps)),
                    "full_nats_per_token": full,
                    "rise_nats": nats - full,
                    "perplexity_rise_percent": 100 * math.expm1(min(nats - full, 50.0)),
                    **extra,
                }
            )
            print(table([rows[-1]], list(rows[-1])), flush=True)
    target = ROOT / "docs" / "results" / f"{'ablation' if ablate else 'calibrated'}-{path.name}"
    write_csv(target.with_suffix(".csv"), rows)
    if ablate:
        return
    series = {}
    for name in METHODS:
        points = [row for row in rows if row["method"] == name and math.isfinite(row["rise_nats"])]
        series[name] = ([row["block_evaluations"] for row in points], [row["rise_nats"] for row in points])
    line_figure(
        target.with_suffix(".png"),
        series,
        xlabel="block evaluations",
        ylabel="rise of the validation loss over full depth (nats per token)",
        title=path.name,
    )


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--ablate"]
    for run in arguments:
        measure(Path(run), "--ablate" in sys.argv)
