"""A run folder: resolved config, tokenizer, checkpoints. Training writes it; inference needs nothing else.

An exported model is such a folder with the file weights.safetensors in the place of the checkpoints.

RUN/config.toml          every knob, with the tokenizer's vocabulary filled in
RUN/tokenizer/           tokenizer.json and the roles of its special tokens
RUN/checkpoints/STEP/    parameters, optimizer state, data position (Orbax: a step appears whole or not at all)
RUN/metrics.jsonl, summary.json, sweep.csv, sweep.png
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import tomli_w
from flax import nnx

from jaxode.config import Config, UserError, from_toml, require, to_dict
from jaxode.data import Tokenizer
from jaxode.model import CausalLM, MaskedLM, SequenceClassifier, make_model
from jaxode.model.parameters import Architecture, Parameters, check_fit, split
from jaxode.weights import WEIGHTS, Weights, read_weights

ITEMS = ("params", "optimizer", "position")
RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """One training run on disk."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the steps lie."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def exported(self) -> bool:
        """Whether the folder holds an exported model: its weights alone, and no run to continue."""
        return (self.path / WEIGHTS).is_file() and not self.checkpoints.exists()

    def check_free(self) -> None:
        """Refuse a folder that already holds a run: it is never overwritten.

        Raises:
            UserError: it does.
        """
        require(
            not (self.path / "config.toml").exists() and not self.checkpoints.exists(),
            f"{self.path} already holds a run: continue it with --resume, or name another folder with --out",
        )

    def create(self, config: Config, tokenizer: Tokenizer) -> None:
        """Write config and tokenizer.

        Raises:
            UserError: the folder already holds a run, or cannot be written.
        """
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tokenizer.save(self.path / "tokenizer")
            partial = self.path / "config.toml.partial"
            partial.write_text(tomli_w.dumps(to_dict(dataclasses.replace(config, resume=False))), encoding="utf-8")
            os.replace(partial, self.path / "config.toml")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def check_resumable(self) -> None:
        """Refuse an exported model.

        Raises:
            UserError: it is one.
        """
        require(
            not self.exported,
            f"{self.path}: is an exported model and holds no optimizer state to continue with; resume the run itself",
        )

    def config(self) -> Config:
        """The resolved config.

        Raises:
            UserError: no run lies here, or its config cannot be read.
        """
        require(self.path.is_dir(), f"{self.path}: no such run folder")
        require(
            (self.path / "config.toml").is_file(),
            f"{self.path}: holds no config.toml, so it is no run folder; name the folder that train.py printed",
        )
        return from_toml(Config, self.path / "config.toml")

    def tokenizer(self) -> Tokenizer:
        """The run's own tokenizer."""
        return Tokenizer.load(self.path / "tokenizer")


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
        except Exception as error:
            raise _unreadable(source, error) from None
        sys.unraisablehook = previous
        return restored


@dataclass(frozen=True)
class TrainedModel:
    """A model read back from a run folder, or from an exported one; a classifier is another library's."""

    model: CausalLM | MaskedLM | SequenceClassifier
    architecture: Architecture
    params: Parameters
    config: Config
    tokenizer: Tokenizer
    step: int
    run: RunFolder


def load_run(path: Path | str, step: int | None = None) -> TrainedModel:
    """Read a run folder: the newest checkpoint, or the one of `step`; or an exported model, which holds one step.

    Raises:
        UserError: no run, no complete checkpoint, a damaged one, or one that does not fit its config or tokenizer.
    """
    run = RunFolder(Path(path))
    config, tokenizer = run.config(), run.tokenizer()
    require(
        tokenizer.vocab_size <= config.model.vocab_size,
        f"{run.path}: tokenizer {tokenizer.name} has {tokenizer.vocab_size} tokens, the model's vocabulary "
        f"{config.model.vocab_size}; the tokenizer belongs to another run",
    )
    # shapes only: fresh parameters would be made to be thrown away
    architecture, shapes = split(nnx.eval_shape(lambda: make_model(config.model)))
    read = _exported if run.exported else _checkpoint
    weights = read(run, shapes, step)
    params = weights.params
    return TrainedModel(architecture.bind(params), architecture, params, config, tokenizer, weights.step, run)


def _exported(run: RunFolder, shapes: Parameters, step: int | None) -> Weights:
    weights = read_weights(run.path / WEIGHTS, shapes)
    require(
        step is None or step == weights.step,
        f"{run.path}: an exported model holds one step, {weights.step}, and not step {step}",
    )
    return weights


def _checkpoint(run: RunFolder, shapes: Parameters, step: int | None) -> Weights:
    require(
        run.checkpoints.is_dir(),
        f"{run.path}: holds no checkpoints yet, nor the {WEIGHTS} of an exported model; train on with --resume",
    )
    with Checkpoints(run) as checkpoints:
        chosen = checkpoints.latest if step is None else step
        if chosen is None:
            raise UserError(f"{run.path}: holds no complete checkpoint; continue the run with --resume")
        require(
            (run.checkpoints / str(chosen)).is_dir(),
            f"{run.path}: holds no checkpoint of step {chosen}; the newest is {checkpoints.latest}",
        )
        return Weights(checkpoints.restore_params(chosen, _on_the_first_device(shapes)), chosen)


def newest_run(root: Path = RUNS) -> Path | None:
    """The run folder under `root` whose checkpoints changed last; None where there is none."""
    runs = [path.parent for path in root.glob("*/checkpoints") if any(p.name.isdigit() for p in path.iterdir())]
    return max(runs, key=lambda path: (path / "checkpoints").stat().st_mtime, default=None)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes the name when the block ends, and is gone when that fails.

    Raises:
        UserError: `folder` holds something already, or cannot be written.
    """
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder}: already there and not empty; nothing is overwritten: name another folder",
    )
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield aside
        for path in (aside, *aside.rglob("*")):  # what makes temporary files makes them private
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.replace(aside, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


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


def _on_the_first_device(shapes: Parameters) -> Parameters:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in shapes.items()}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
