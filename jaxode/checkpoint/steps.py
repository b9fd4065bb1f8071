"""The steps of a run: parameters, optimizer state and data position, written and read by Orbax."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import jax

from jaxode.checkpoint.folder import RunFolder
from jaxode.config import UserError
from jaxode.model.parameters import Parameters, check_fit

ITEMS = ("params", "optimizer", "position")


class Checkpoints:
    """Steps of a run, written in the background, the newest `keep` kept. A context manager."""

    def __init__(self, run: RunFolder, keep: int = 2):
        """Open for reading and writing."""
        import orbax.checkpoint as ocp  # an exported model is read without it

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every phase of a save
        self._args = ocp.args
        self.run = run
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        # named handlers: without them a manager that has saved nothing yet finds no metadata
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "position": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(run.checkpoints.absolute(), options=options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest complete step; one that was copied by half does not count."""
        steps = self._manager.all_steps()
        folders = {step: self.run.checkpoints / str(step) for step in steps}
        return max((step for step in steps if all((folders[step] / item).is_dir() for item in ITEMS)), default=None)

    def save(self, step: int, params: Parameters, optimizer: Any, position: Mapping[str, Any]) -> None:
        """Start writing a step; older work on disk stays until this one is complete.

        Raises:
            UserError: this step, or the one before it in the background, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        args = self._args.Composite(
            params=self._args.StandardSave(params),
            optimizer=self._args.StandardSave(_named(optimizer)),
            position=self._args.JsonSave(dict(position)),
        )
        with self._writing():
            # force: Orbax would skip a step below one that lies there half-copied
            self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Block until everything is on disk.

        Raises:
            UserError: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk comes out of TensorStore as a ValueError
            with suppress(Exception):  # the step before this one may still be on its way
                self._manager.wait_until_finished()
            kept = f"the checkpoint of update {self.latest} is kept" if self.latest else "none was written yet"
            raise UserError(
                f"{self.run.checkpoints}: a checkpoint cannot be written ({_first_line(error)}); {kept}; "
                "make room and continue with --resume"
            ) from None

    def restore(self, step: int, params: Parameters, optimizer: Any) -> tuple[Parameters, Any, dict[str, Any]]:
        """Parameters, optimizer state and data position of a step, placed like the arguments.

        Raises:
            UserError: another architecture, or a step that cannot be read.
        """
        restored = self._read(step, params, optimizer)
        leaves = restored["optimizer"]
        _, tree = jax.tree_util.tree_flatten(optimizer)
        return (
            restored["params"],
            jax.tree_util.tree_unflatten(tree, [leaves[k] for k in _named(optimizer)]),
            restored["position"],
        )

    def restore_params(self, step: int, params: Parameters) -> Parameters:
        """Parameters alone."""
        return self._read(step, params, None)["params"]

    def _read(self, step: int, params: Parameters, optimizer: Any) -> Any:
        source = f"{self.run.checkpoints / str(step)}"
        previous = sys.unraisablehook
        sys.unraisablehook = partial(_report, previous)  # stays when a read fails: its threads are heard later
        try:
            found = self._manager.item_metadata(step)["params"].tree
        except Exception as error:  # Orbax raises many kinds for a damaged step
            raise _unreadable(source, error) from None
        check_fit(params, found, source)
        args = {"params": self._args.StandardRestore(_abstract(params))}
        if optimizer is not None:
            args |= {
                "optimizer": self._args.StandardRestore(_abstract(_named(optimizer))),
                "position": self._args.JsonRestore(),
            }
        try:
            restored = self._manager.restore(step, args=self._args.Composite(**args))
        except Exception as error:  # and TensorStore more of them, for the arrays
            raise _unreadable(source, error) from None
        sys.unraisablehook = previous
        return restored


def _report(previous: Any, unraisable: Any) -> None:
    """Leave out what the other threads of a failed read say, some time after it, each with a traceback."""
    if str(unraisable.exc_value) != "Event loop is closed":
        previous(unraisable)


def _unreadable(source: str, error: Exception) -> UserError:
    reason = _first_line(error)
    return UserError(
        f"{source}: checkpoint is damaged or incomplete ({reason}); remove it to fall back to an older one"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]


def _named(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
