"""Where a run's numbers go: JSON lines, a progress bar, TensorBoard, Weights & Biases, behind one small interface.

Nothing here imports jax; the optional packages are imported by the tracker that needs them.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from jaxode.config import UserError
from jaxode.config.parsing import parse_json

Metrics = Mapping[str, float | int | str]


@runtime_checkable  # beartype checks it in the tests
class Tracker(Protocol):
    """Takes the metrics of a step. One step may be logged in parts, such as first training, then validation."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Record `metrics` of the update number `step`."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


class JsonlTracker:
    """One JSON object a line, ``{"step": 10, "loss": 3.2}``, appended and flushed at once.

    A value that is not finite is written as NaN or Infinity, as Python's json reads it.

    Args:
        path: appended to where it is there.
        after: the update that a resumed run goes on from: lines of later ones, which a kill has undone, are cut off.
            None cuts nothing.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: Path, after: int | None = None) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if after is not None and path.exists():
                _cut(path, after)
            # unbuffered: a buffer would keep what a full disk refused and raise again on every later write and on close
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
        self._torn = False
        if self._file.tell() > 0:
            self._file.seek(-1, 2)
            self._torn = self._file.read(1) != b"\n"

    def log(self, step: int, metrics: Metrics) -> None:
        """Append one line; raises OSError where the disk refuses it."""
        line = json.dumps({"step": step, **metrics}).encode() + b"\n"
        # the newline ends what a crash or a full disk left behind, so that only that line is lost
        rest = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        while rest:  # an unbuffered write may take only a part
            rest = rest[self._file.write(rest) :]
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut(path: Path, after: int) -> None:
    """Keep the lines down to the last one of an update up to `after`; of a run that never went back, all those."""
    kept = end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        end += len(line)
        record = _record(line)
        if record is not None and record["step"] <= after:
            kept = end
    if kept < end:
        # one call, so that a crash leaves the old length or the new one; it needs no room on the disk either
        os.truncate(path, kept)


def _record(line: bytes | str) -> dict[str, Any] | None:
    """What a line holds; None where it is torn, or no record."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read what `JsonlTracker` wrote: one dictionary a step, in the order of steps; torn lines are skipped.

    Where a step was logged more than once, its dictionaries are merged and the last value of each key wins: training
    and validation may be logged apart, and before lines were cut off a resumed run has repeated some.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        record = _record(line)
        if record is not None:
            steps.setdefault(record["step"], {}).update(record)
    return [steps[step] for step in sorted(steps)]


class TensorBoardTracker:
    """TensorBoard event files in `folder`: numbers as scalars, strings as text.

    Args:
        folder: each tracker adds a file to those that are there.
        after: the update that a resumed run goes on from: TensorBoard hides what older files hold of later ones.
    """

    def __init__(self, folder: Path, after: int | None = None) -> None:
        events = _optional("tensorboardX.event_file_writer", extra="tensorboard")
        self._summary = _optional("tensorboardX.summary", extra="tensorboard")
        proto = _optional("tensorboardX.proto.event_pb2", extra="tensorboard")
        self._event = proto.Event
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
        # not SummaryWriter: it writes from a thread, which a full disk ends, and then add_scalar waits for it forever
        # the process id keeps two runs started within one second from sharing, and truncating, a file
        self._writer = events.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        if after is not None:
            start = proto.SessionLog(status=proto.SessionLog.START)
            self._writer.write_event(self._event(step=after + 1, wall_time=time.time(), session_log=start))

    def log(self, step: int, metrics: Metrics) -> None:
        """Write one event and flush it; raises OSError where the disk refuses it."""
        for name, value in metrics.items():
            summary = self._summary.text if isinstance(value, str) else self._summary.scalar
            self._writer.write_event(self._event(step=step, wall_time=time.time(), summary=summary(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbTracker:
    """A Weights & Biases run named `run_name` in `project`, with `config` as its settings."""

    def __init__(self, project: str, run_name: str, config: Mapping[str, Any]) -> None:
        self._run = _optional("wandb", extra="wandb").init(project=project, name=run_name, config=dict(config))

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand the metrics to the run, which sends them in the background."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run: waits until everything is sent."""
        self._run.finish()


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        remedy = f'pip install "jaxode[{extra}]", or turn train.{extra} off'
        raise UserError(f"{module.partition('.')[0]} is not installed: {remedy}") from None


class ProgressBar:
    """A bar of updates on standard error: share done, time left, tokens a second, the newest losses and utilisation.

    Args:
        total: updates of the whole run.
        initial: updates done before, by the run that is resumed.
        disable: None shows the bar only where standard error is a terminal.
        tokens_per_update: B·L; with 1 the bar counts updates.
    """

    def __init__(
        self, total: int, initial: int = 0, disable: bool | None = None, *, tokens_per_update: int = 1
    ) -> None:
        self._tokens = tokens_per_update
        self._shown: dict[str, str] = {}
        self._bar = tqdm(
            total=total * tokens_per_update,
            initial=initial * tokens_per_update,
            disable=disable,
            file=sys.stderr,
            unit="update" if tokens_per_update == 1 else "tok",
            unit_scale=True,
            dynamic_ncols=True,
        )
        self._step = initial

    def log(self, step: int, metrics: Metrics) -> None:
        """Move to `step` and show every metric whose name ends in "loss", and the model FLOPs utilisation."""
        self._shown |= {k: f"{v:.4f}" for k, v in metrics.items() if k.endswith("loss") and not isinstance(v, str)}
        self._shown |= {"mfu": f"{metrics['mfu']:.1%}"} if "mfu" in metrics else {}
        self._bar.set_postfix({"update": step, **self._shown}, refresh=False)
        self._bar.update((step - self._step) * self._tokens)
        self._step = step

    def close(self) -> None:
        """Leave the last state standing on its own line."""
        self._bar.refresh()
        self._bar.close()


class Trackers:
    """Several trackers as one. One that fails with OSError (a full disk) is reported once; training goes on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)
        self._warned: set[int] = set()

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand the metrics to every tracker."""
        for i, tracker in enumerate(self._trackers):
            try:
                tracker.log(step, metrics)
            except OSError as error:
                self._warn(i, error)

    def close(self) -> None:
        """Close every tracker."""
        for i, tracker in enumerate(self._trackers):
            try:
                tracker.close()
            except OSError as error:
                self._warn(i, error)

    def _warn(self, i: int, error: OSError) -> None:
        if i not in self._warned:
            self._warned.add(i)
            name = type(self._trackers[i]).__name__
            sys.stderr.write(f"{name}: metrics are being lost, training goes on: {error}\n")
