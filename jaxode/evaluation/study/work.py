"""What a study does: train, calibrate and measure its runs, each step a process, and only what is missing."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxode.config import UserError, require, to_toml
from jaxode.evaluation.figures import read_csv
from jaxode.evaluation.study.children import Children, Stopped
from jaxode.evaluation.study.grid import Run, Study
from jaxode.evaluation.study.records import (
    RESULT,
    STARTED,
    Code,
    Result,
    Started,
    check_same_code,
    check_same_corpus,
    check_settings,
    corpus_key,
    read_record,
    started,
    write_record,
)
from jaxode.tracking import read_jsonl

DEPTH = ("solver", "schedule", "steps", "block_evaluations")


@dataclass(frozen=True)
class State:
    """How far a run is."""

    begun: bool
    """Its folder holds a run to resume."""
    started: Started | None
    result: Result | None
    calibrate: tuple[int, ...]
    """Step counts whose calibration is missing."""
    measure: bool
    """Whether a row that the study asks for is missing."""

    @property
    def done(self) -> bool:
        """Nothing is missing."""
        return self.result is not None and not self.calibrate and not self.measure

    @property
    def missing(self) -> str:
        """In words."""
        train = () if self.result else ("resume",) if self.begun else ("train",)
        calibrate = (f"calibrate {','.join(map(str, self.calibrate))}",) if self.calibrate else ()
        return ", ".join([*train, *calibrate, *(("measure",) if self.measure else ())])


@dataclass(frozen=True)
class Finished:
    """A run that nothing more is done for."""

    run: Run
    failures: tuple[str, ...]
    seconds: float
    """Wall-clock time of what was missing."""

    def __str__(self) -> str:
        return f"{self.run.label}: {'failed after' if self.failures else 'done in'} {self.seconds:.0f} s"


@dataclass
class Work:
    """A study in a folder."""

    study: Study
    root: Path
    children: Children
    accept_older: bool = False
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sizes of the corpora at hand, by `corpus_key`."""
    code: Code = field(default_factory=lambda: Code.current())
    """As it was when the study began."""

    def folder(self, run: Run) -> Path:
        """Where a run is kept."""
        return self.root / run.folder

    def state(self, run: Run) -> State:
        """How far a run is.

        Raises:
            UserError: its folder cannot be read, or holds a run that no study has started.
        """
        folder = self.folder(run)
        result = read_record(Result, folder / RESULT)
        begun = (folder / "config.toml").exists()
        began = result.started if result else read_record(Started, folder / STARTED) if begun else None
        require(
            began is not None or not begun,
            f"run {run.label}: {folder} holds a run that no study has started; delete it, or use --out elsewhere",
        )
        lacking = (n for n in self.study.calibrated_for(run) if not (folder / f"calibration-{n}.json").exists())
        rows = result.rows if result and result.batches == self.study.settings.batches else ()
        found = {(row["solver"], row["steps"]) for row in rows}
        calibrate = tuple(lacking)
        measure = bool(calibrate) or not self.study.wanted(run) <= found
        measure = measure or (self.study.controlled(run) and not (result and result.controls))
        return State(begun, began, result, calibrate, measure)

    def results(self) -> dict[Run, Result]:
        """What is measured so far, on as many batches as the study asks for."""
        found = {run: self.state(run).result for run in self.study.runs}
        return {
            run: one for run, one in found.items() if one and one.rows and one.batches == self.study.settings.batches
        }

    def check(self, chosen: Sequence[Run]) -> None:
        """Refuse what would put results of other settings, code or text beside those of the chosen runs.

        Raises:
            UserError: naming the run and what differs.
        """
        states = {run: self.state(run) for run in self.study.runs}
        # where nothing is left to do, results need only agree with each other
        code = None if all(states[run].done for run in chosen) else self.code
        tokens = dict(self.tokens)
        for run, state in states.items():
            if state.started is None:
                continue
            folder = self.folder(run)
            check_settings(run, folder, state.started)
            made_by = [state.started.code]
            if state.result and state.result.measured_by and not (run in chosen and state.measure):
                made_by.append(state.result.measured_by)
            for one in made_by if not self.accept_older else ():
                code = code or one
                check_same_code(run, folder, one, code)
            expected = tokens.setdefault(corpus_key(run.config), state.started.tokens)
            check_same_corpus(run, folder, state.started.tokens, expected)

    def prepare(self, runs: Sequence[Run]) -> None:
        """Write the configs of the runs and read every corpus once, so that runs side by side find it ready.

        Raises:
            UserError: a corpus that cannot be used, or a folder that cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for run in runs:
                config = dataclasses.replace(run.config, out=str(self.folder(run)))
                self._recipe(run).write_text(to_toml(config), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.root}: cannot be written: {error.strerror or error}") from None
        for key, run in {corpus_key(run.config): run for run in reversed(runs)}.items():
            log = self.root / "data.log"
            failure = self.children.call(["jaxode.data", "--config", str(self._recipe(run))], log)
            require(failure is None, f"run {run.label}: its text cannot be prepared: {failure}")
            stats = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
            self.tokens[key] = {split: one["tokens"] for split, one in stats.items()}

    def finish(self, runs: Sequence[Run], jobs: int) -> Iterator[Finished]:
        """Do what is missing of the runs, `jobs` at a time; yields each when it is through, none that was stopped."""
        doing: dict[str, str] = {}
        with (
            tqdm(total=len(runs), unit="run", disable=None, file=sys.stderr, dynamic_ncols=True) as bar,
            ThreadPoolExecutor(jobs) as pool,
        ):

            def finish(run: Run) -> Finished | None:
                failures, began = [], time.monotonic()
                try:
                    for task, call in self._tasks(run):
                        doing[run.label] = task
                        bar.set_description_str("; ".join(f"{name}: {what}" for name, what in list(doing.items())))
                        failure = call()
                        if failure is not None:
                            failures.append(f"{run.label}, {task}: {failure}")
                except UserError as error:
                    failures.append(f"{run.label}: {error}")
                except OSError as error:
                    failures.append(f"{run.label}: {self.folder(run)}: {error.strerror or error}")
                except Stopped:
                    return None
                finally:
                    doing.pop(run.label, None)
                return Finished(run, tuple(failures), time.monotonic() - began)

            waiting = {pool.submit(finish, run) for run in runs}
            while waiting:
                # woken now and then: a signal that another thread receives interrupts no wait of this one
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for one in done:
                    bar.update()
                    finished = one.result()
                    if finished is not None:
                        yield finished

    def _tasks(self, run: Run) -> Iterator[tuple[str, Any]]:
        """What a run lacks, step by step; each is looked up when the one before it is done."""
        if self.state(run).result is None:
            yield "train", lambda: self._train(run)
            if self.state(run).result is None:
                return
        for n in self.state(run).calibrate:
            yield f"calibrate {n}", lambda n=n: self._infer(run, "calibrate", "--steps", str(n))
        yield "measure", lambda: self._measure(run)

    def _train(self, run: Run) -> str | None:
        folder, state = self.folder(run), self.state(run)
        record = state.started or started(run, self.tokens[corpus_key(run.config)])
        self._check_unchanged()
        write_record(folder / STARTED, record)
        command = ["jaxode.training", "--config", str(self._recipe(run)), *(["--resume"] if state.begun else [])]
        began = time.monotonic()
        try:
            failure = self.children.call(command, folder / "log.txt")
        finally:
            record = dataclasses.replace(record, seconds=record.seconds + time.monotonic() - began)
            write_record(folder / STARTED, record)
        if failure is None:
            write_record(folder / RESULT, self._trained(run, record))
        return failure

    def _trained(self, run: Run, record: Started) -> Result:
        folder = self.folder(run)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        require(
            "nats_per_token" in summary,
            f"{folder}: is an encoder, which has no loss; studies compare language models",
        )
        check_same_corpus(run, folder, summary["tokens"], record.tokens)
        logged: dict[str, Any] = {}
        for line in read_jsonl(folder / "metrics.jsonl"):
            logged |= line
        return Result(
            started=record,
            parameters=summary["parameters"],
            trained_tokens=summary["trained_tokens"],
            nats_per_token=summary["nats_per_token"],
            training_flops=logged.get("training_flops"),
            block_evaluations=logged.get("block_evaluations"),
        )

    def _check_unchanged(self) -> None:
        """An editor may be at work while the study is."""
        require(
            self.accept_older or Code.current() == self.code,
            "the source of jaxode has changed since the study began; restore it, or use --out elsewhere",
        )

    def _measure(self, run: Run) -> str | None:
        folder, batches = self.folder(run), self.study.settings.batches
        self._check_unchanged()
        at = ",".join(map(str, self.study.measured_at(run)))
        controlled = self.study.controlled(run)
        flags = ["--at", at, "--batches", str(batches), *(["--controls"] if controlled else [])]
        failure = self._infer(run, "sweep", *flags)
        if failure is not None:
            return failure
        result = self.state(run).result
        assert result is not None
        on_task = run.config.data.asks
        answers = tuple(read_csv(folder / "answers.csv")) if on_task else ()
        measured = dataclasses.replace(
            result,
            batches=batches,
            measured_by=Code.current(),
            rows=_losses(answers) if on_task else tuple(read_csv(folder / "sweep.csv")),
            answers=answers,
            controls=tuple(read_csv(folder / "controls.csv")) if controlled else (),
        )
        write_record(folder / RESULT, measured)
        return None

    def _infer(self, run: Run, task: str, *flags: str) -> str | None:
        folder = self.folder(run)
        brought = ["--plugins", *run.config.plugins] if run.config.plugins else []
        return self.children.call(
            ["jaxode.inference", "--checkpoint", str(folder), "--task", task, *flags, *brought], folder / "log.txt"
        )

    def _recipe(self, run: Run) -> Path:
        return self.root / f"{run.folder}.toml"


def _losses(answers: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The loss of a task's answers, over all difficulties that were trained on: a row a step count and solver."""
    depths: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in answers:
        if row["trained"]:
            depths.setdefault(tuple(row[name] for name in DEPTH), []).append(row)
    losses = []
    for depth, same in depths.items():
        predicted = sum(row["predicted"] for row in same)
        nats = sum(row["predicted"] * row["nats_per_token"] for row in same) / predicted
        losses.append({**dict(zip(DEPTH, depth, strict=True)), "nats_per_token": nats})
    return tuple(losses)
