"""The steps of a run: parameters, optimizer state and data position, written and read by Orbax.

Fingerprints of the three are saved with them and compared when they are read: neither Orbax's array files nor JSON
keep a checksum, so that damage on a disk would else go on as other numbers. Steps written before there were
fingerprints are taken as they are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxode import hosts
from jaxode.checkpoint.best import KeepBest, read_best
from jaxode.checkpoint.folder import RunFolder
from jaxode.checkpoint.noise import quiet
from jaxode.config import UserError
from jaxode.model.parameters import Parameters, check_fit, fingerprint

T = TypeVar("T")
ITEMS = ("params", "optimizer", "position")


@dataclass(frozen=True)
class Restored:
    """What a run goes on with."""

    step: int
    params: Parameters
    optimizer: Any
    position: dict[str, Any]


class Checkpoints:
    """Steps of a run, written in the background, the newest `keep` and the best one kept. A context manager."""

    def __init__(self, run: RunFolder, keep: int = 2, keep_every: int = 0):
        """Open for reading and writing. With `keep_every` its multiples are kept as well."""
        import orbax.checkpoint as ocp  # an exported model is read without it

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports phases of a save, and what it raises
        self._args = ocp.args
        self.run = run
        policies = ocp.checkpoint_managers
        always = [policies.EveryNSteps(keep_every)] if keep_every else []
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), KeepBest(run), *always])
        options = ocp.CheckpointManagerOptions(preservation_policy=kept, create=True, enable_async_checkpointing=True)
        # named handlers: without them a manager that has saved nothing yet finds no metadata
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "position": ocp.JsonCheckpointHandler(),
            "fingerprints": ocp.JsonCheckpointHandler(),
        }
        try:
            self._manager = ocp.CheckpointManager(run.checkpoints.absolute(), options=options, item_handlers=handlers)
        except (OSError, ValueError, RecursionError) as error:  # a full disk, or metadata that are none
            raise UserError(f"{run.checkpoints}: cannot be opened ({_first_line(error)})") from None
        # training goes on while numbers are hashed, and while Orbax prepares what it writes
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._written: Future[None] | None = None
        self._failed = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.shutdown()
        if kind is not None and hosts.several():
            return  # Orbax would wait for all processes
        if kind is not None or self._failed:
            with suppress(Exception):  # it raises again what was said already
                self._manager.close()
            return
        with self._writing():
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """The complete steps, newest first; one that was copied by half does not count."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        return [step for step in steps if all((self._folder(step) / item).is_dir() for item in ITEMS)]

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        return next(iter(self.steps), None)

    def save(self, step: int, params: Parameters, optimizer: Any, position: Mapping[str, Any]) -> None:
        """Start writing a step; older work on disk stays until this one is complete.

        Raises:
            UserError: this step, or the one before it in the background, cannot be written.
        """
        with self._writing():
            self._settle()
            items = {"params": params, "optimizer": _named(optimizer), "position": dict(position)}
            if hosts.several():
                self._write(step, items)  # what processes do together they do in one order
            else:
                self._written = self._writer.submit(self._write, step, items)

    def _write(self, step: int, items: Mapping[str, Any]) -> None:
        args = self._args.Composite(
            params=self._args.StandardSave(items["params"]),
            optimizer=self._args.StandardSave(items["optimizer"]),
            position=self._args.JsonSave(items["position"]),
            fingerprints=self._args.JsonSave(_fingerprints(items)),
        )
        # force: Orbax would skip a step below one that lies there half-copied
        self._manager.save(step, args=args, force=True)

    def _settle(self) -> None:
        """Wait for the thread that writes; raises what it met."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def wait(self) -> None:
        """Block until everything is on disk.

        Raises:
            UserError: it cannot be written.
        """
        with self._writing():
            self._settle()
            self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk comes out of TensorStore as a ValueError
            if hosts.several() and isinstance(error, jax.errors.JaxRuntimeError):
                raise
            self._failed = True
            if not hosts.several():  # who are not asked to wait here
                with suppress(Exception):  # the step before this one may still be on its way
                    self._manager.wait_until_finished()
            kept = f"the checkpoint of update {self.latest} is kept" if self.latest else "none was written yet"
            raise UserError(
                f"{self.run.checkpoints}: a checkpoint cannot be written ({_first_line(error)}); {kept}; "
                "make room and continue with --resume"
            ) from None

    def restore(self, params: Parameters, optimizer: Any) -> Restored | None:
        """The newest step that can be read, placed like the arguments; None where there is no complete one.

        Raises:
            UserError: another architecture, or no step that can be read.
        """
        _, tree = jax.tree_util.tree_flatten(optimizer)
        read = self.newest(lambda step: self._read(step, params, _named(optimizer)))
        if read is None:
            return None
        step, items = read
        state = jax.tree_util.tree_unflatten(tree, [items["optimizer"][name] for name in _named(optimizer)])
        return Restored(step, items["params"], state, items["position"])

    def restore_params(self, step: int, params: Parameters) -> Parameters:
        """Parameters of a step alone, placed like the argument.

        Raises:
            UserError: another architecture, or a step that cannot be read.
        """
        return self._read(step, params, None)["params"]

    def chosen(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        """The best step where the run chose one and `read` can read it, else as `newest`.

        Raises:
            UserError: as `newest`.
        """
        best = read_best(self.run)
        first = [best.step] if best is not None and best.step in self.steps else []
        return self._first([*first, *(step for step in self.steps if step not in first)], read)

    def newest(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        """The newest complete step that `read` can read, and what it gives; says which were passed over, and why.

        Raises:
            UserError: what `read` raises for the newest one, where it can read none.
        """
        return self._first(self.steps, read)

    def _first(self, steps: Sequence[int], read: Callable[[int], T]) -> tuple[int, T] | None:
        failures: list[UserError] = []
        for step in steps:
            try:
                result = read(step)
            except UserError as failure:
                failures.append(failure)
                continue
            for failure in failures:
                sys.stderr.write(f"{failure}; the checkpoint of update {step} is taken in its place\n")
            return step, result
        if failures:
            raise failures[0]
        return None

    def set_aside(self, after: int) -> None:
        """Give the steps above `after` other names, so that theirs can be saved anew; nothing is removed.

        Raises:
            UserError: one cannot be renamed.
        """
        for step in self._manager.all_steps() if hosts.first() else ():
            if step > after:
                source = self._folder(step)
                target = next(path for path in _spare_names(source) if not path.exists())
                try:
                    os.replace(source, target)
                except OSError as error:
                    raise UserError(f"{source}: cannot be renamed: {error.strerror or error}") from None
                sys.stderr.write(f"{source}: cannot be read and now lies in {target.name}; remove it when you like\n")
        hosts.barrier("set aside")
        self._manager.reload()

    def _folder(self, step: int) -> Path:
        return self.run.checkpoints / str(step)

    def _read(self, step: int, params: Parameters, optimizer: dict[str, Any] | None) -> dict[str, Any]:
        """The parameters of a step; with `optimizer` its state and the data position as well."""
        source = str(self._folder(step))
        try:
            with quiet():
                tensors = self._manager.item_metadata(step)["params"]
                handlers = self._manager.metadata(step).item_handlers
        except Exception as error:  # Orbax raises many kinds for a damaged step
            raise _unreadable(source, _first_line(error)) from None
        if tensors is None:
            raise _unreadable(source, "no list of its tensors")
        check_fit(params, tensors.tree, source)
        args: dict[str, Any] = {"params": self._args.StandardRestore(_abstract(params))}
        if optimizer is not None:
            args |= {
                "optimizer": self._args.StandardRestore(_abstract(optimizer)),
                "position": self._args.JsonRestore(),
            }
        # the list and the folder both say that there are some: either may be damaged
        if "fingerprints" in (handlers or {}) or (self._folder(step) / "fingerprints").exists():
            args["fingerprints"] = self._args.JsonRestore()
        restored, failure = {}, ""
        try:
            with quiet():
                restored = self._manager.restore(step, args=self._args.Composite(**args))
        except Exception as error:  # and TensorStore more of them, for the arrays
            failure = _first_line(error)
        if hosts.any_of(bool(failure)):
            raise _unreadable(source, failure or "another process cannot read its part")
        items = {name: restored[name] for name in args if name != "fingerprints"}
        if "fingerprints" in args:
            saved = restored["fingerprints"]
            for name, digest in _fingerprints(items).items():
                if not isinstance(saved, dict) or saved.get(name) != digest:
                    raise _unreadable(source, f"{name}: not what was written")
        return items


def _fingerprints(items: Mapping[str, Any]) -> dict[str, str]:
    """Of the named arrays of the items, and of the data position, which is JSON."""
    position = {name: item for name, item in items.items() if name == "position"}
    # one array after the other where all of them are here
    fetched = hosts.whole if hosts.several() else lambda item: item
    arrays = {name: fingerprint(fetched(item)) for name, item in items.items() if name not in position}
    return arrays | {name: _digest(item) for name, item in position.items()}


def _digest(position: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(position, sort_keys=True).encode(), digest_size=16).hexdigest()


def _unreadable(source: str, reason: str) -> UserError:
    return UserError(f"{source}: checkpoint is damaged or incomplete ({reason}); copy it again or take another step")


def _spare_names(folder: Path) -> Iterator[Path]:
    yield folder.with_name(f"{folder.name}.damaged")
    yield from (folder.with_name(f"{folder.name}.damaged-{count}") for count in itertools.count(2))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]


def _named(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
