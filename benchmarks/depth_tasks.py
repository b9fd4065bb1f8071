"""Tasks that need depth, trained in several ways and asked at several: what is right, by difficulty.

    python benchmarks/depth_tasks.py [--tasks s5] [--ways fixed,told] [--seeds 0]
    python benchmarks/depth_tasks.py --figure

The first trains the recipes of configs/depth/ in the ways of WAYS, all on the same questions in the same order, and
asks every model at every depth of DEPTHS; a run that has its rows is not made again, one that was stopped goes on.
Keeps docs/results/depth.csv. The second draws docs/results/depth-TASK.png and depth-ways.png out of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from timing import RESULTS

from jaxode.calibration import Fit, calibrate, calibration_batches, with_calibrations
from jaxode.config import Config, DepthConfig, from_toml, override
from jaxode.evaluation.answer_sweep import Answers, answer_sweep, task_answers
from jaxode.evaluation.figures import Panel, panel_figure, read_csv, table, write_csv
from jaxode.training import TrainResult, train
from jaxode.training.curriculum import Curriculum, cost

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "depth"
KEPT = RESULTS / "depth.csv"
UNTOLD = {"objective.name": "random", "objective.spacing": "even"}
COUNTS = "2,3,4,6,8,12"
TOLD = UNTOLD | {"model.conditioning": "step"}
WAYS: dict[str, dict[str, Any]] = {
    # as the recipe says: at N steps alone
    "fixed": {},
    # at n steps alone
    "direct-6": {"depth.steps": 6},
    "direct-3": {"depth.steps": 3},
    # for as many training FLOPs as at N steps
    "direct-3-longer": {"depth.steps": 3, "train.updates": 12000},
    # one model for several depths
    "random": UNTOLD | {"objective.steps": f"uniform:{COUNTS}"},
    "told": TOLD | {"objective.steps": f"uniform:{COUNTS}"},
    "widen": TOLD | {"objective.steps": "widen:3,4,6,8,12", "objective.widen_after": 0.5},
    "late": TOLD | {"objective.steps": "late:3,4,6,12"},
    # as many block evaluations at each depth, and as many FLOPs as at N steps alone
    "equal": TOLD | {"objective.steps": "inverse:3,6,12", "train.updates": 7000},
    "equal-matrices": TOLD | {"objective.steps": "inverse:3,6,12", "train.updates": 7000, "model.clock.rank": 8},
    "distil": TOLD | {"objective.short": "uniform:2,3,4,6,8", "objective.short_loss": 1.0, "objective.distil": 1.0},
    "unit": {"objective.name": "random", "objective.spacing": "unit", "objective.steps": f"uniform:{COUNTS}"},
    "exits": {"objective.name": "exits"},
    "loopformer": {"objective.name": "loopformer", "model.conditioning": "loopformer"},
    "scaled": {"model.step_size": 0.5},
    # other models at N steps
    "not-injected": {"model.inject_input": False},
    "concat": {"model.inject_input": False, "model.loop.injection": "concat"},
    "boundary-norm": {"model.loop.boundary": "norm"},
    "streams": {"model.loop.streams": 2, "model.conditioning": "time"},
    "told-matrices": {"model.conditioning": "time", "model.clock.rank": 8},
    "sandwich": {"model.prelude": 3, "model.coda": 3, "model.steps": 6},
    "unit-branch": {"model.output_init": 1.0, "model.step_size": 1 / 12},
    "wide-3": {"model.width": 192, "depth.steps": 3},
    "unshared-3": {"model.sharing": "none", "model.steps": 3, "model.inject_input": False},
}
"""What each changes of the recipe."""
EASIER: dict[str, tuple[dict[str, Any], ...]] = {
    "p-hop": tuple(
        {"data.task.difficulty": which, "data.task.beyond": "", "data.task.examples": 80000, "train.updates": updates}
        for which, updates in (("1", 200), ("1-2", 600), ("1-3", 300), ("1-4", 300))
    ),
}
"""Of a task that is hardly learned all at once: what comes before, each from where the one before it ended."""
DEPTHS = (12, 8, 6, 4, 3, 2)
FITS = {"calibrated": (Fit(), 20), "adapters": (Fit(updates=400, adapters=16), 80)}
"""Solvers that are fitted to the fixed model, and on how many batches of its training questions."""
CALIBRATED = (8, 6, 4, 3)


def depths(config: Config) -> list[DepthConfig]:
    """Even steps up to N, steps of size 1 beyond it; of a model that was trained at one depth alone, that one too."""
    model, own = config.model, config.depth.steps or config.model.steps
    if model.sharing == "none":
        return [DepthConfig(solver="euler")]
    even = [DepthConfig(steps=n, solver="euler") for n in sorted({own, *DEPTHS}) if n <= model.steps]
    beyond = (3 * model.steps // 2, 2 * model.steps)
    return [*even, *(DepthConfig(steps=n, solver="euler", schedule="unit") for n in beyond)]


def training_flops(task: str, config: Config) -> int:
    """Of the whole run, with what came before it."""
    total = 0
    for one in (config, *(override(config, changes, task) for changes in EASIER.get(task, ()))):
        curriculum, tokens = Curriculum(one), one.train.batch_size * one.model.length
        solves = (curriculum.at(update) for update in range(one.train.updates))
        total += tokens * sum(cost(one.model, one.depth, one.objective, each).flops for each in solves)
    return total


def rows(task: str, way: str, seed: int, done: TrainResult) -> Iterator[dict[str, Any]]:
    """Of every difficulty at every depth."""
    questions = task_answers(done.config.data, done.data.spec, done.data.length, 64)
    about = {
        "task": task,
        "way": way,
        "seed": seed,
        "parameters": done.architecture.bind(done.params).num_parameters,
        "training_flops": training_flops(task, done.config),
    }
    if way in FITS:
        yield from (about | row for row in calibrated(done, seed, questions, *FITS[way]))
        return
    found = answer_sweep(done.architecture, done.params, questions, depths(done.config), "answers")
    yield from (about | row for row in found)


def calibrated(
    done: TrainResult, seed: int, questions: Sequence[Answers], fit: Fit, batches: int
) -> Iterator[dict[str, Any]]:
    """The same weights behind solvers that were fitted on questions of the training set."""
    text, model = calibration_batches(done.data, seed, batches), done.architecture.bind(done.params)
    for steps in CALIBRATED:
        fitted = calibrate(model, text, steps, fit)
        params = with_calibrations(done.params, {steps: fitted})
        yield from answer_sweep(done.architecture, params, questions, [fitted.depth], "answers")


def results(tasks: Sequence[str], ways: Sequence[str], seeds: Sequence[int], work: Path) -> None:
    """Every run that has no row yet."""
    for seed, task, way in itertools.product(seeds, tasks, ways):
        if any((row["task"], row["way"], row["seed"]) == (task, way, seed) for row in kept_rows()):
            continue
        trained = "fixed" if way in FITS else way
        config = override(from_toml(Config, RECIPES / f"{task}.toml"), WAYS[trained], f"way {way}")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        begun = time.perf_counter()
        done = trained_model(task, config, work / task / f"{trained}-{seed}")
        # of the part that ran now, where it was stopped in between
        minutes = (time.perf_counter() - begun) / 60
        # a fit's are not those of the model that it is fitted to
        spent = "" if way in FITS else minutes
        found = [row | {"minutes": spent} for row in rows(task, way, seed, done)]
        print(task, way, seed, f"{minutes:.1f} minutes")
        print(table(by_depth(found), list(by_depth(found)[0])), flush=True)
        # read again: another process may have measured meanwhile
        write_csv(KEPT, [*kept_rows(), *found])


def trained_model(task: str, config: Config, out: Path) -> TrainResult:
    """Trained on what is easier first where a task has that, then by the recipe itself."""
    before = ""
    for number, changes in enumerate(EASIER.get(task, ())):
        easier = override(config, changes, f"{task}, easier questions")
        before = _trained(easier, before, out.with_name(f"{out.name}-easier-{number}")).config.out
    return _trained(config, before, out)


def _trained(config: Config, init: str, out: Path) -> TrainResult:
    resumed = (out / "config.toml").exists()
    done = train(dataclasses.replace(config, init=init, out=str(out), resume=resumed))
    if done.stopped_by is not None:
        raise SystemExit(f"{out}: stopped at update {done.step}; the same command goes on")
    return done


def kept_rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    return read_csv(KEPT) if KEPT.exists() else []


def by_depth(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a depth, a column a difficulty."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in found:
        line = lines.setdefault((row["solver"], row["steps"]), {"solver": row["solver"], "steps": row["steps"]})
        line[f"d{row['difficulty']}"] = row["exact"]
    return list(lines.values())


SHOWN = {
    "fixed": "trained at 12 steps alone",
    "adapters": "the same weights, calibrated",
    "told": "trained for several depths",
}
"""Panels of depth-TASK.png: one set of weights each."""


def figure() -> None:
    """Of every task exact matches against block evaluations by difficulty, and all ways at the hardest trained one."""
    kept = kept_rows()
    panels = []
    for task in dict.fromkeys(row["task"] for row in kept):
        mine = [row for row in kept if (row["task"], row["seed"]) == (task, 0)]
        difficulties = sorted({row["difficulty"] for row in mine})
        hardest = max(row["difficulty"] for row in mine if row["trained"])
        shown = [hardest, *(d for d in difficulties if (d - hardest) % max(1, len(difficulties) // 7) == 0)]
        ways = dict.fromkeys(row["way"] for row in mine)
        one = []
        for way, title in SHOWN.items():
            if way not in ways:
                continue
            lines: dict[str, Any] = {}
            for d in sorted(set(shown)):
                beyond = "" if d <= hardest else " (not trained)"
                # a calibration is for fewer steps than N: at N it is the fixed model
                lines[f"difficulty {d}{beyond}"] = _line(mine, (way, "fixed") if way in FITS else (way,), d)
            one.append(Panel(lines, "block evaluations", "exact matches", title))
        panel_figure(RESULTS / f"depth-{task}.png", one, f"{task}: questions answered right")
        every = {name: _line(mine, (name,), hardest) for name in ways}
        panels.append(Panel(every, "block evaluations", f"{task}, difficulty {hardest}: exact matches"))
    panel_figure(RESULTS / "depth-ways.png", panels, "Trained in several ways")


def _line(found: Sequence[dict[str, Any]], ways: tuple[str, ...], difficulty: int) -> tuple[list[Any], list[Any]]:
    """The first way that has it, evaluation by evaluation."""
    points: dict[int, float] = {}
    for way in ways:
        for row in found:
            if (row["way"], row["difficulty"]) == (way, difficulty) and (way == ways[0] or row["steps"] >= 12):
                points.setdefault(row["block_evaluations"], row["exact"])
    return sorted(points), [points[x] for x in sorted(points)]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default="s5,p-hop,rule-30")
    parser.add_argument("--ways", default=",".join((*WAYS, *FITS)))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", type=Path, default=Path("runs/depth"), help="where runs go")
    parser.add_argument("--figure", action="store_true")
    told = parser.parse_args()
    if told.figure:
        figure()
        return
    seeds = [int(seed) for seed in told.seeds.split(",")]
    results(told.tasks.split(","), told.ways.split(","), seeds, told.work)


if __name__ == "__main__":
    main()
