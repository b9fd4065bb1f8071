"""python -m jaxode.evaluation.study configs/studies/NAME.toml: train, calibrate and measure what a study lacks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxode.config import StudyCommand, entry, parse_command, require
from jaxode.evaluation.figures import table
from jaxode.evaluation.study.children import Children, Stopped
from jaxode.evaluation.study.grid import Run, Study, load_study
from jaxode.evaluation.study.outcome import save_study
from jaxode.evaluation.study.work import Work


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do what is missing, show the variants side by side. Returns the exit code."""
    command = parse_command(StudyCommand, argv)
    study = load_study(Path(command.study))
    chosen = _chosen(study, command.only)
    root = Path(command.out) / study.name
    results = Path(command.results) if command.results else root
    with Children(command.jobs > 1, root / "compiled") as children:
        work = Work(study, root, children, command.accept_older)
        if command.dry_run:
            _list(work, chosen)
        work.check(chosen)
        if command.dry_run:
            return 0
        shown, failures = "", []
        try:
            lacking = [run for run in chosen if not work.state(run).done]
            if lacking:
                work.prepare(lacking)
                work.check(chosen)
            for number, finished in enumerate(work.finish(lacking, command.jobs), start=1):
                failures += finished.failures
                # a terminal has a bar
                if not sys.stderr.isatty():
                    print(f"{finished} ({number} of {len(lacking)})", file=sys.stderr, flush=True)
                shown = _save(work, results)
        except Stopped:
            pass
        if children.signal is not None:
            print("stopped; the same command goes on", file=sys.stderr)
            return 128 + children.signal
        shown = shown or _save(work, results)
    if shown:
        print(shown)
        print(f"written: {results / study.name}.csv, .png; the runs are in {root}", file=sys.stderr)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _chosen(study: Study, only: str) -> list[Run]:
    """The runs of the variants that are named; all without names."""
    names = {name for run in study.runs for name in (run.variant, run.base)}
    asked = [name.strip() for name in only.split(",")] if only else []
    for name in asked:
        require(
            name in names,
            f'only = "{only}": {name!r} is no variant of the study; it has '
            f"{', '.join(dict.fromkeys(run.variant for run in study.runs))}",
        )
    return [run for run in study.runs if not asked or run.variant in asked or run.base in asked]


def _list(work: Work, runs: Sequence[Run]) -> None:
    rows = [{"run": run.label, "folder": str(work.folder(run)), "missing": work.state(run).missing} for run in runs]
    print(table(rows, list(rows[0])))


def _save(work: Work, folder: Path) -> str:
    results = work.results()
    return save_study(folder, work.study, results) if results else ""


if __name__ == "__main__":
    sys.exit(main())
