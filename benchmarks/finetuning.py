"""Labelled tasks, fine-tuned: one elastic classifier beside what else could be done, at 12, 6, 4 and 3 steps.

    python benchmarks/finetuning.py --data DATA
    python benchmarks/finetuning.py --data DATA --speed

DATA holds the folders sst2_glue, sentcls_raw, cola, rte and agnews_alps. The first trains every way of WAYS on every
task and seed from the shipped masked model, with the recipes of configs/finetune/, and measures the last checkpoint on
texts that chose nothing; a run that has its row is not made again, but with --again. Keeps docs/results/finetuning.csv,
finetuning.png and finetuning-table.csv (means and deviations over seeds). The second times the labelling of the test
texts, all depths and TF-IDF in turns: docs/results/bench-finetuning.csv.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from timing import RESULTS, report

import jaxode
from jaxode.calibration import Fit, calibrate, calibration_batches, with_calibrations
from jaxode.config import Config, DepthConfig, ObjectiveConfig, from_toml
from jaxode.evaluation.agreement import agreement
from jaxode.evaluation.figures import Panel, panel_figure, read_csv, table, write_csv
from jaxode.evaluation.labels import evaluate_labels
from jaxode.training import TrainResult, train

INIT = "books-masked"
FEWER = (6, 4, 3)
KINDS = {
    "plain": 12,
    "elastic": 12,
    "elastic-longer": 12,
    "distilled": 12,
    "direct-6": 6,
    "direct-4": 4,
    "direct-3": 3,
    "scratch": 12,
    "exits": 12,
}
"""What is trained, and its full depth. An update of "elastic" solves half as many steps as one of "plain" (6.25 on
average), so "elastic-longer" has 1.92 times as many of them. "distilled" solves every batch at full depth, and once
more in 6, 4 or 3 steps that learn its predictions: 16.3 evaluations an update. Of "exits" the head is trained on the
states after 3, 6 and 9 steps as well.
"""


@dataclass(frozen=True)
class Example:
    """A labelled text or pair."""

    text: str
    label: str
    pair: str | None = None


@dataclass(frozen=True)
class Task:
    """Where it comes from, how it is measured and how long it is trained."""

    read: Callable[[Path, bool], Iterator[Example]]
    metric: str
    updates: int


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def _sst2(data: Path, test: bool) -> Iterator[Example]:
    """Phrases of GLUE's training file; whole sentences of the test split."""
    if not test:
        yield from (Example(text, label) for label, text in _rows(data / "sst2_glue" / "train.tsv")[1:])
        return
    yield from _leading_label(data / "sentcls_raw" / "stsa.binary.test")


def _leading_label(path: Path) -> Iterator[Example]:
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, text = line.partition(" ")
        yield Example(text, label)


def _trec(data: Path, test: bool) -> Iterator[Example]:
    return _leading_label(data / "sentcls_raw" / f"TREC.{'test' if test else 'train'}.all")


def _cola(data: Path, test: bool) -> Iterator[Example]:
    names = ("in_domain_dev", "out_of_domain_dev") if test else ("in_domain_train",)
    for name in names:
        yield from (Example(row[3], row[1]) for row in _rows(data / "cola" / f"{name}.tsv"))


def _rte(data: Path, test: bool) -> Iterator[Example]:
    rows = _rows(data / "rte" / f"{'dev' if test else 'train'}.tsv")[1:]
    yield from (Example(first, label, second) for _, first, second, label in rows)


def _agnews(data: Path, test: bool) -> Iterator[Example]:
    name = "test" if test else "dev"
    yield from (Example(text, label) for text, label in _rows(data / "agnews_alps" / f"{name}.tsv"))


TASKS = {
    "sst2": Task(_sst2, "accuracy", 1500),
    "trec": Task(_trec, "accuracy", 900),
    "agnews": Task(_agnews, "accuracy", 450),
    "cola": Task(_cola, "Matthews correlation", 500),
    "rte": Task(_rte, "accuracy", 240),
}


def tables(data: Path, work: Path, name: str) -> tuple[Path, Path]:
    """The task's texts as tables, of training and of test."""
    files = (work / name / "train.csv", work / name / "test.csv")
    for file, test in zip(files, (False, True), strict=True):
        examples = list(TASKS[name].read(data, test))
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as stream:
            lines = csv.writer(stream)
            paired = examples[0].pair is not None
            lines.writerow(["text", *(["pair"] if paired else []), "label"])
            lines.writerows([one.text, *([one.pair] if paired else []), one.label] for one in examples)
    return files


def settings(name: str, kind: str, seed: int, files: tuple[Path, Path], out: Path) -> Config:
    """Of one run: the recipes of configs/finetune/, with the task's files and length."""
    recipe = "elastic-classifier" if kind.startswith("elastic") or kind == "distilled" else "classifier"
    read = from_toml(Config, Path(__file__).resolve().parent.parent / "configs" / "finetune" / f"{recipe}.toml")
    updates = TASKS[name].updates
    if kind == "elastic-longer":
        drawn = statistics.fmean((12, *FEWER))
        updates = round(updates * KINDS["plain"] / drawn)
    paired = "pair" if TASKS[name].read is _rte else ""
    data = dataclasses.replace(
        read.data, train=str(files[0]), valid=str(files[1]), text="text", pair=paired, label="label"
    )
    loop = dataclasses.replace(
        read.train, updates=updates, seed=seed, validate_every=0, checkpoint_every=updates, sweep=False, keep=1
    )
    own, model = jaxode.load(INIT), read.model
    init, depth = INIT, read.depth
    if kind == "scratch":
        init = ""
        model = dataclasses.replace(own.config.model, head="classifier")
        data = dataclasses.replace(data, tokenizer=str(own.run.path / "tokenizer"))
    elif kind.startswith("direct"):
        depth = dataclasses.replace(depth, steps=KINDS[kind])
    objective = {
        "exits": ObjectiveConfig(name="exits"),
        "distilled": ObjectiveConfig(short="uniform:3,4,6", distil=1.0),
    }.get(kind, read.objective)
    read = dataclasses.replace(read, objective=objective)
    return dataclasses.replace(read, model=model, depth=depth, data=data, train=loop, init=init, out=str(out))


def _way(kind: str) -> str:
    """As its rows name it: those of "direct" differ in their steps."""
    return "direct" if kind.startswith("direct") else kind


def measured(name: str, kind: str, seed: int, done: TrainResult, minutes: float) -> Iterator[dict[str, Any]]:
    """Rows of a run: at the depths that it is for, and of a plain one also those that it is not, calibrated or not."""
    metric, batches = TASKS[name].metric, list(done.data.validation(64))

    def row(way: str, steps: int, depth: DepthConfig, params: Any, spent: float) -> dict[str, Any]:
        found = evaluate_labels(done.architecture, params, batches, depth)
        return {
            "task": name,
            "seed": seed,
            "way": way,
            "steps": steps,
            "solver": found.solver,
            "metric": metric,
            "value": found.metrics[metric],
            "loss": found.loss,
            "texts": found.texts,
            "minutes": spent,
        }

    full = KINDS[kind]
    yield row(_way(kind), full, DepthConfig(steps=full, solver="euler"), done.params, minutes)
    if kind in ("elastic", "elastic-longer", "distilled", "plain"):
        for steps in FEWER:
            yield row(kind, steps, DepthConfig(steps=steps, solver="euler"), done.params, minutes)
    if kind == "plain":
        text = calibration_batches(done.data, seed)
        model = done.architecture.bind(done.params)
        for steps in FEWER:
            fitted = calibrate(model, text, steps, Fit())
            own = with_calibrations(done.params, {steps: fitted})
            yield row("calibrated", steps, fitted.depth, own, fitted.seconds / 60)


def tf_idf(examples: Sequence[Example]) -> Any:
    """TF-IDF of words and pairs of words, logistic regression; its penalty chosen on parts of the training texts."""

    def words() -> TfidfVectorizer:
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]")

    parts = [("text", words(), 0), *([("pair", words(), 1)] if examples[0].pair is not None else [])]
    model = make_pipeline(ColumnTransformer(parts), LogisticRegression(max_iter=2000))
    search = GridSearchCV(model, {"logisticregression__C": [1.0, 3.0, 10.0, 30.0]}, cv=3)
    return search.fit(columns(examples), [one.label for one in examples])


def columns(examples: Sequence[Example]) -> np.ndarray:
    """Texts and their pairs, as TF-IDF reads them."""
    return np.asarray([[one.text, one.pair or ""] for one in examples], dtype=object)


def baselines(name: str, data: Path) -> Iterator[dict[str, Any]]:
    """The most frequent label, and TF-IDF with logistic regression."""
    task = TASKS[name]
    train, test = list(task.read(data, False)), list(task.read(data, True))
    labels = sorted({one.label for one in train})
    wanted = [(labels.index(one.label),) for one in test]
    frequent = statistics.mode(one.label for one in train)
    begun = time.perf_counter()
    found = tf_idf(train).predict(columns(test))
    minutes = (time.perf_counter() - begun) / 60
    for way, said in (("majority", [frequent] * len(test)), ("tf-idf", found)):
        values = agreement(wanted, [(labels.index(one),) for one in said], "single_label_classification", labels)
        yield {
            "task": name,
            "seed": 0,
            "way": way,
            "steps": 0,
            "solver": "",
            "metric": task.metric,
            "value": values[task.metric],
            "loss": "",
            "texts": len(test),
            "minutes": minutes if way == "tf-idf" else 0.0,
        }


def results(
    data: Path, work: Path, names: Sequence[str], kinds: Sequence[str], seeds: Sequence[int], again: bool = False
) -> None:
    """Every run that has no row yet; `again`, those that have as well, whose rows are replaced."""
    kept = RESULTS / "finetuning.csv"
    rows: list[dict[str, Any]] = read_csv(kept) if kept.exists() else []

    def has(name: str, seed: int, way: str, steps: int) -> bool:
        return any((row["task"], row["seed"], row["way"], row["steps"]) == (name, seed, way, steps) for row in rows)

    for name in names:
        if not has(name, 0, "tf-idf", 0):
            rows += baselines(name, data)
            write_csv(kept, rows)
    for seed, kind, name in itertools.product(seeds, kinds, names):
        if has(name, seed, _way(kind), KINDS[kind]) and not again:
            continue
        out = work / name / f"{kind}-{seed}"
        config = settings(name, kind, seed, tables(data, work, name), out)
        config = dataclasses.replace(config, resume=(out / "config.toml").exists())
        begun = time.perf_counter()
        done = train(config)
        if done.stopped_by is not None:
            raise SystemExit(f"{out}: stopped at update {done.step}; the same command goes on")
        found = list(measured(name, kind, seed, done, (time.perf_counter() - begun) / 60))
        print(table(found, list(found[0])), flush=True)
        made = {(row["way"], row["steps"]) for row in found}
        rows = [
            row for row in rows if (row["task"], row["seed"]) != (name, seed) or (row["way"], row["steps"]) not in made
        ]
        rows += found
        write_csv(kept, rows)
    summary(rows)


def summary(rows: Sequence[dict[str, Any]]) -> None:
    """Means over seeds, with deviations: the table and the figure."""
    groups: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["way"], row["steps"]), []).append(row["value"])
    means = [
        {
            "task": name,
            "metric": TASKS[name].metric,
            "way": way,
            "steps": steps,
            "seeds": len(values),
            "value": statistics.fmean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else "",
        }
        for (name, way, steps), values in sorted(
            groups.items(), key=lambda item: (list(TASKS).index(item[0][0]), item[0][1], -item[0][2])
        )
    ]
    report("finetuning-table", means)
    panels = []
    for name, task in TASKS.items():
        series: dict[str, Any] = {}
        for way in ("elastic", "elastic-longer", "distilled", "calibrated", "direct", "plain", "scratch"):
            points = [(row["steps"], row["value"]) for row in means if (row["task"], row["way"]) == (name, way)]
            if points:
                series[way] = tuple(zip(*sorted(points), strict=True))
        for way in ("tf-idf", "majority"):
            flat = [row["value"] for row in means if (row["task"], row["way"]) == (name, way)]
            if flat:
                series[way] = ([3, 12], flat * 2)
        if series:
            panels.append(Panel(series, "block evaluations", f"{name}: {task.metric}"))
    panel_figure(RESULTS / "finetuning.png", panels, "fine-tuned from the shipped masked model, means over seeds")


def labellers(data: Path, work: Path, name: str) -> tuple[int, dict[str, Callable[[], Any]]]:
    """How many texts there are, and what labels all of them: the elastic model at each depth, and TF-IDF."""
    examples = list(TASKS[name].read(data, True))
    texts, pairs = [one.text for one in examples], [one.pair or "" for one in examples]
    told = pairs if examples[0].pair is not None else None
    loaded, fitted = jaxode.load(work / name / "elastic-0"), tf_idf(list(TASKS[name].read(data, False)))

    def labels(steps: int) -> Any:
        depth = DepthConfig(steps=steps, solver="euler")
        return jaxode.classify_texts(loaded, texts, pairs=told, depth=depth, truncate=True)

    ways: dict[str, Callable[[], Any]] = {str(steps): partial(labels, steps) for steps in (12, *FEWER)}
    return len(texts), ways | {"tf-idf": lambda: fitted.predict(columns(examples))}


def speed(data: Path, work: Path, names: Sequence[str], rounds: int = 5) -> None:
    """Texts labelled a second, batches of 32, in turns."""
    rows: list[dict[str, Any]] = []
    for name in names:
        count, ways = labellers(data, work, name)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for kept, (way, one) in itertools.product((False, *[True] * rounds), ways.items()):
            begun = time.perf_counter()
            one()
            if kept:
                seconds[way].append(time.perf_counter() - begun)
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        rows += [
            {"task": name, "steps": way, "texts_per_second": count / value, "over_full_depth": medians["12"] / value}
            for way, value in medians.items()
        ]
        report("bench-finetuning", rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/finetuning"), help="where tables and runs go")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--again", action="store_true", help="also runs that have their rows")
    parser.add_argument("--speed", action="store_true")
    told = parser.parse_args()
    names = tuple(told.tasks.split(","))
    if told.speed:
        speed(told.data, told.work, names)
    else:
        seeds = [int(seed) for seed in told.seeds.split(",")]
        results(told.data, told.work, names, told.kinds.split(","), seeds, told.again)


if __name__ == "__main__":
    main()
