"""What fewer steps cost frozen weights: calibrated solvers beside truncation, step rescaling and fitted step sizes.

    python benchmarks/calibrated_depth.py runs/NAME [more runs]
    python benchmarks/calibrated_depth.py runs/NAME --method "step rescaling" --method calibrated   (some of them)
    python benchmarks/calibrated_depth.py --ablate runs/NAME              (what each part buys, n = N/3)
    python benchmarks/calibrated_depth.py --sizes runs/NAME               (how much text a fit needs, n = N/3)
    python benchmarks/calibrated_depth.py --across wikitext-2 runs/NAME   (fit on one corpus, report on both)

Fits on training text, reports on the validation split. Writes docs/results/calibrated-NAME.csv and .png, or
ablation-NAME.csv, sizes-NAME.csv, across-NAME.csv there.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from jaxode.calibration import Fit, calibrate, calibration_batches, with_calibrations
from jaxode.checkpoint import TrainedModel, load_run
from jaxode.config import DepthConfig
from jaxode.data import Batch, PreparedData, prepare
from jaxode.evaluation import Diverged, default_steps, evaluate
from jaxode.evaluation.figures import Panel, panel_figure, table, write_csv
from jaxode.model import block_evaluations

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
VALIDATION_ROWS, VALIDATION_BATCHES = 16, 24
PLAIN = Fit(rank=0, gains=False)

METHODS: dict[str, tuple[str, str] | Fit] = {
    "truncation": ("euler", "unit"),
    "step rescaling": ("euler", "even"),
    "geometric 1.5": ("euler", "geometric:1.5"),
    "secant": ("secant", "even"),
    "best schedule": dataclasses.replace(PLAIN, form="schedule", updates=0, candidates=16),
    "fitted steps": dataclasses.replace(PLAIN, memory=1),
    "calibrated, no gains": Fit(gains=False, updates=40),
    "calibrated": Fit(),
    "step adapters": Fit("unit", adapters=8, updates=400),
}

ABLATION = {
    "schedule": dataclasses.replace(PLAIN, form="schedule", updates=0, candidates=16),
    "schedule, one gain": dataclasses.replace(PLAIN, form="global", updates=0, candidates=16),
    "step sizes, least squares": dataclasses.replace(PLAIN, memory=1, updates=0),
    "step sizes": dataclasses.replace(PLAIN, memory=1),
    "memory of 1": PLAIN,
    "memory of 2": dataclasses.replace(PLAIN, memory=3),
    "memory of 1, gains": Fit(rank=0),
    "rank 8": Fit(rank=8, gains=False),
    "rank 32, least squares": Fit(updates=0, gains=False),
    "rank 32": Fit(gains=False),
    "rank 32, gains, no memory": Fit(memory=1),
    "rank 32, gains": Fit(),
    "rank 128, gains": Fit(rank=128),
    "rank 32, gains, 400 updates": Fit(updates=400),
    "unit steps, gains": Fit("unit", updates=400),
    "unit steps, gains, adapters 2": Fit("unit", adapters=2, updates=400),
    "unit steps, gains, adapters 8": Fit("unit", adapters=8, updates=400),
    "unit steps, gains, adapters 32": Fit("unit", adapters=32, updates=400),
}

SIZES = (8, 32, 128, 512)


def held_out(data: PreparedData) -> list[Batch]:
    """Batches spread over the validation split."""
    batches = list(data.validation(VALIDATION_ROWS, None))
    return batches[:: max(1, len(batches) // VALIDATION_BATCHES)][:VALIDATION_BATCHES]


def text_of(trained: TrainedModel, corpus: str = "") -> PreparedData:
    """The run's own corpus, or another read with the run's tokenizer."""
    model, data = trained.config.model, trained.config.data
    if corpus:
        data = dataclasses.replace(data, corpus=corpus, files="")
    return prepare(data, model.length, model.kind, tokenizer=trained.tokenizer)


def loss(trained: TrainedModel, params: dict, batches: Sequence[Batch], depth: DepthConfig) -> float:
    """Nats per predicted token; infinite where the solve diverges."""
    try:
        masks = trained.config.data.apart
        return evaluate(trained.architecture, params, batches, depth, document_mask=masks).nats_per_token
    except Diverged:
        return math.inf


def text_for(data: PreparedData, fit: Fit) -> list[Batch]:
    """To calibrate on: form "unit" reads no batch twice, and smaller ones."""
    once = {"batches": fit.updates + 2, "tokens": 1024} if fit.form == "unit" else {}
    return calibration_batches(data, **once)


def fitted(trained: TrainedModel, text: Sequence[Batch], reported: Sequence[Batch], steps: int, fit: Fit) -> dict:
    """Calibrate on `text`, measure on `reported`."""
    done = calibrate(trained.model, text, steps, fit, document_mask=trained.config.data.apart)
    own = with_calibrations(trained.params, {steps: done})
    return rise(trained, own, reported, done.depth) | {
        "schedule": " ".join(map(str, done.schedule)),
        "tokens": done.tokens,
        "seconds": done.seconds,
        "fit_kl": done.kl,
    }


def rise(trained: TrainedModel, params: dict, reported: Sequence[Batch], depth: DepthConfig) -> dict:
    """The loss against the full depth's."""
    full = loss(trained, trained.params, reported, DepthConfig(solver="euler"))
    more = loss(trained, params, reported, depth) - full
    return {
        "full_nats_per_token": full,
        "rise_nats": more,
        "perplexity_rise_percent": 100 * math.expm1(min(more, 50.0)),
    }


def record(rows: list[dict], row: dict) -> None:
    """Keep and show a row."""
    rows.append(row)
    print(table([row], list(row)), flush=True)


def methods(trained: TrainedModel, names: Sequence[str] = tuple(METHODS)) -> list[dict]:
    """Every method at every number of steps."""
    model, data, rows = trained.config.model, text_of(trained), []
    reported = held_out(data)
    for steps in default_steps(model, (2, 3, 4, 6)):
        cost = {"steps": steps, "block_evaluations": block_evaluations(model, DepthConfig(steps=steps))}
        for name, method in ((name, METHODS[name]) for name in names):
            if isinstance(method, Fit):
                row = fitted(trained, text_for(data, method), reported, steps, method)
            else:
                solver, schedule = method
                depth = DepthConfig(steps=steps, solver=solver, schedule=schedule)
                row = rise(trained, trained.params, reported, depth) | {"schedule": schedule}
            record(rows, {"method": name, **cost, **row})
    return rows


def ablation(trained: TrainedModel) -> list[dict]:
    """What each part of a fit buys."""
    data, steps, rows = text_of(trained), trained.config.model.steps // 3, []
    text, reported = calibration_batches(data), held_out(data)
    for name, fit in ABLATION.items():
        row = fitted(trained, text_for(data, fit), reported, steps, fit)
        record(rows, {"method": name, "steps": steps, **row})
    some = [*text[:3], *text[-2:]]
    row = fitted(trained, some, reported, steps, Fit())
    record(rows, {"method": "rank 32, gains, a sixth of the text", "steps": steps, **row})
    return rows


def sizes(trained: TrainedModel) -> list[dict]:
    """Fits to 8, 32, 128 and 512 sequences: the rise on them, and on text that none saw."""
    data, steps, rows = text_of(trained), trained.config.model.steps // 3, []
    reported = held_out(data)
    for count in SIZES:
        each = min(16, count // 2)
        text = calibration_batches(data, batches=count // each + 2, tokens=each * data.length)
        for name, fit in (("memory of 1", PLAIN), ("calibrated", Fit())):
            done = calibrate(trained.model, text, steps, fit)
            own = with_calibrations(trained.params, {steps: done})
            seen = rise(trained, own, text[:-2], done.depth)
            row = rise(trained, own, reported, done.depth)
            record(
                rows,
                {
                    "method": name,
                    "steps": steps,
                    "sequences": count,
                    "tokens": done.tokens,
                    "fitted_rise_nats": seen["rise_nats"],
                    "fitted_perplexity_rise_percent": seen["perplexity_rise_percent"],
                    **row,
                },
            )
    return rows


def across(trained: TrainedModel, corpus: str) -> list[dict]:
    """Fit on each of two corpora, report on both."""
    steps, rows = trained.config.model.steps // 3, []
    texts = {trained.config.data.corpus: text_of(trained), corpus: text_of(trained, corpus)}
    for fit_on, source in texts.items():
        done = calibrate(trained.model, calibration_batches(source), steps)
        own = with_calibrations(trained.params, {steps: done})
        for report_on, target in texts.items():
            row = rise(trained, own, held_out(target), done.depth)
            record(rows, {"fit_on": fit_on, "report_on": report_on, "steps": steps, **row})
    return rows


def figure(path: Path, rows: list[dict]) -> None:
    """Rise against block evaluations."""
    series = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        points = [row for row in rows if row["method"] == name and math.isfinite(row["rise_nats"])]
        series[name] = ([row["block_evaluations"] for row in points], [row["rise_nats"] for row in points])
    panel = Panel(series, "block evaluations", "rise of the loss, nats per token", yscale="symlog")
    panel_figure(path, [panel], path.stem.removeprefix("calibrated-"))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group()
    for kind in ("ablate", "sizes"):
        kinds.add_argument(f"--{kind}", action="store_true")
    kinds.add_argument("--across", metavar="CORPUS")
    kinds.add_argument("--method", choices=METHODS, action="append", help="again for each; all of them without")
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    for run in arguments.runs:
        trained = load_run(run)
        if arguments.ablate:
            write_csv(RESULTS / f"ablation-{run.name}.csv", ablation(trained))
        elif arguments.sizes:
            write_csv(RESULTS / f"sizes-{run.name}.csv", sizes(trained))
        elif arguments.across:
            write_csv(RESULTS / f"across-{run.name}.csv", across(trained, arguments.across))
        else:
            rows = methods(trained, arguments.method or tuple(METHODS))
            write_csv(RESULTS / f"calibrated-{run.name}.csv", rows)
            figure(RESULTS / f"calibrated-{run.name}.png", rows)


if __name__ == "__main__":
    main()
