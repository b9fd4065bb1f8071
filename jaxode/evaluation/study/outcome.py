"""The results of a study's runs side by side: one CSV row a measurement, a table over seeds, a figure."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxode.evaluation.figures import Panel, Ranges, Series, panel_figure, table, write_csv, writing
from jaxode.evaluation.study.grid import Run, Study
from jaxode.evaluation.study.records import Result, settings_of

Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[float | int, float, float, float]]  # x, and of y mean, least and most over seeds
DIRECT = "trained directly at n"
PARTS = ("answers", "controls")
LOSSES = ("nats_per_token", "rise_nats_per_token", "perplexity_rise_percent")


def measurements(study: Study, results: Mapping[Run, Result]) -> list[dict[str, Any]]:
    """One row a run, step count and solver; a rise is over the run's own loss at the steps that it was trained at."""
    rows = []
    for run, result in results.items():
        own = _own_loss(run, result)
        settings = json.dumps(settings_of(run.config), sort_keys=True)
        wanted = study.wanted(run)
        for row in (row for row in result.rows if (row["solver"], row["steps"]) in wanted):
            rise = row["nats_per_token"] - own
            rows.append(
                {
                    "variant": run.variant,
                    "seed": run.seed,
                    "parameters": result.parameters,
                    "N": run.config.model.steps,
                    "trained_at": run.trained_at,
                    "trained_tokens": result.trained_tokens,
                    "training_flops": result.training_flops,
                    "block_evaluations_trained": result.block_evaluations,
                    "training_seconds": result.started.seconds,
                    "n": row["steps"],
                    "solver": row["solver"],
                    "block_evaluations": row["block_evaluations"],
                    "nats_per_token": row["nats_per_token"],
                    "rise_nats_per_token": rise,
                    "perplexity_rise_percent": 100 * math.expm1(rise) if rise < 700 else math.inf,
                    "batches": result.batches,
                    "version": result.started.code.version,
                    "code": result.started.code.source,
                    "config": f"sha256:{hashlib.sha256(settings.encode()).hexdigest()[:16]}",
                    **{f"tokens_{split}": count for split, count in result.started.tokens.items()},
                }
            )
    return rows


def _own_loss(run: Run, result: Result) -> float:
    found = (row for row in result.rows if row["solver"] == "euler" and row["steps"] == run.trained_at)
    return next(found)["nats_per_token"]


def comparison(study: Study, rows: Rows) -> list[dict[str, Any]]:
    """Mean over seeds, with the sample standard deviation, by variant, solver and n.

    The last column is the difference to the baseline's own full depth, over the seeds that both have.
    """
    rivals = {run.variant: run.rival for run in study.runs}
    full = {(row["variant"], row["seed"]): row["nats_per_token"] for row in rows if _full(row)}
    compared = []
    for (variant, solver, n), same in _grouped(rows, "variant", "solver", "n").items():
        rival = rivals[variant]
        over = [row["nats_per_token"] - full[rival, row["seed"]] for row in same if (rival, row["seed"]) in full]
        compared.append(
            {
                "variant": variant,
                "n": n,
                "solver": solver,
                "block_evaluations": same[0]["block_evaluations"],
                "seeds": len(same),
                **{name: _spread([row[name] for row in same]) for name in LOSSES},
                f"nats_per_token_over_{study.settings.baseline}": _spread(over),
            }
        )
    return compared


def save_study(folder: Path, study: Study, results: Mapping[Run, Result]) -> str:
    """Write NAME.csv and NAME.png into `folder`, and NAME-answers.csv and NAME-controls.csv where runs have them;
    return the tables for the terminal.

    Raises:
        UserError: the folder cannot be written.
    """
    rows = measurements(study, results)
    with writing(folder, "the study's results"):
        write_csv(folder / f"{study.name}.csv", rows)
        panels = _panels(rows)
        if panels:
            seeds = "mean over seeds, bars from the lowest to the highest" if any(one.ranges for one in panels) else ""
            panel_figure(folder / f"{study.name}.png", panels, ": ".join(filter(None, (study.name, seeds))))
        for part in PARTS:
            found = [
                {"variant": run.variant, "seed": run.seed, "trained_at": run.trained_at, **row}
                for run, result in results.items()
                for row in getattr(result, part)
            ]
            if found:
                write_csv(folder / f"{study.name}-{part}.csv", found)
    compared = comparison(study, rows)
    shown = [table(compared, list(compared[0]))]
    exact = exact_matches(results)
    return "\n\n".join([*shown, table(exact, list(exact[0]))] if exact else shown)


def exact_matches(results: Mapping[Run, Result]) -> list[dict[str, Any]]:
    """Of runs on tasks: the share of right answers by variant, solver, n and difficulty, as mean over seeds with the
    sample standard deviation.
    """
    answers = [{"variant": run.variant, **row} for run, result in results.items() for row in result.answers]
    difficulties = sorted({row["difficulty"] for row in answers})
    rows = []
    for (variant, solver, n), same in _grouped(answers, "variant", "solver", "steps").items():
        cells = {f"d{one}": _spread([row["exact"] for row in same if row["difficulty"] == one]) for one in difficulties}
        rows.append({"variant": variant, "n": n, "solver": solver, **cells})
    return rows


def _panels(rows: Rows) -> list[Panel]:
    finite = [row for row in rows if math.isfinite(row["nats_per_token"])]
    names = _lines(finite)
    loss = "validation loss (nats per token)"
    lines: dict[str, Points] = {}
    for (variant, n), same in _grouped(finite, "variant", "n").items():
        direct = same[0]["trained_at"] != same[0]["N"]
        if direct and n != same[0]["trained_at"]:
            continue
        solvers = _grouped(same, "solver").values()
        best = min(solvers, key=lambda one: (_mean(one, "nats_per_token"), one[0]["block_evaluations"]))
        lines.setdefault(names[variant], []).append(_point(best, best[0]["block_evaluations"]))
    costs: dict[str, Points] = {}
    # runs of older code logged no FLOPs
    known = all(row["training_flops"] is not None for row in finite)
    cost, label = ("training_flops", "training FLOPs") if known else ("training_seconds", "seconds of training")
    for (variant,), same in _grouped(filter(_full, finite), "variant").items():
        costs.setdefault(names[variant], []).append(_point(same, _mean(same, cost)))
    if not lines or not costs:
        return []
    return [
        Panel(_series(lines), "block evaluations at inference", loss, "Loss against depth", ranges=_ranges(lines)),
        Panel(_series(costs), label, loss, "Loss at the depth of training", ranges=_ranges(costs)),
    ]


def _lines(rows: Rows) -> dict[str, str]:
    """The line of each variant: those trained at other depths than N, otherwise alike, are points of one."""
    names = {row["variant"]: row["variant"] for row in rows}
    direct = [row for row in rows if row["trained_at"] != row["N"]]
    alike = [
        list(dict.fromkeys(row["variant"] for row in same))
        for same in _grouped(direct, "parameters", "trained_tokens").values()
    ]
    taken: set[str] = set()
    for variants in alike:
        line = "/".join([DIRECT, *variants[0].split("/")[1:]])
        if line not in taken and (len(variants) > 1 or len(alike) == 1):
            names |= dict.fromkeys(variants, line)
        elif len(variants) > 1:
            names |= dict.fromkeys(variants, f"{line}, as {variants[0]}")
        taken.add(line)
    return names


def _point(rows: Rows, x: float | int) -> tuple[float | int, float, float, float]:
    losses = [row["nats_per_token"] for row in rows]
    return x, statistics.fmean(losses), min(losses), max(losses)


def _series(lines: Mapping[str, Points]) -> Series:
    return {
        name: ([x for x, *_ in sorted(points)], [y for _, y, *_ in sorted(points)]) for name, points in lines.items()
    }


def _ranges(lines: Mapping[str, Points]) -> Ranges:
    """Of the lines that have more than one seed somewhere."""
    return {
        name: ([low for *_, low, _ in sorted(points)], [high for *_, high in sorted(points)])
        for name, points in lines.items()
        if any(low < high for *_, low, high in points)
    }


def _full(row: Mapping[str, Any]) -> bool:
    return row["solver"] == "euler" and row["n"] == row["trained_at"]


def _grouped(rows: Iterable[Mapping[str, Any]], *names: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _mean(rows: Rows, name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 and all(map(math.isfinite, values)) else mean
