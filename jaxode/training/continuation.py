"""How a run goes on: with the settings it began with, from its newest checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from jaxode.checkpoint import Checkpoints
from jaxode.config import Config, require
from jaxode.training.parallel import Parallel
from jaxode.training.step import TrainState

# What may differ between a run and its continuation: where and how often, never what is computed.
FREE = {
    # the run's folder knows which plug-ins made it
    "": {"out", "resume", "plugins"},
    "train": {"log_every", "validate_every", "validation_batches", "final_batches", "best", "patience", "sweep"}
    | {
        "checkpoint_every",
        "keep",
        "keep_every",
        "tensorboard",
        "wandb",
        "profile",
        "devices",
        "parallel",
        "mesh",
        "hosts",
    }
    # of a run that has diverged, how to get past that
    | {"nonfinite"},
    # the data position knows its text, wherever that lies
    "data": {"cache", "root", "files", "mixture", "train", "valid", "edited"},
    "depth": {"adjoint"},
    # what is asked at the end
    "data.task": {"beyond", "tested"},
}


def check_same(stored: Config, config: Config) -> None:
    """Refuse settings that would compute something else.

    Raises:
        UserError: naming the first one, and what the run began with.
    """
    # not to_dict, which leaves out what is None
    new = dict(_decisive(dataclasses.asdict(config)))
    for dotted, value in _decisive(dataclasses.asdict(stored)):
        now = new[dotted]
        require(
            now == value,
            f"{dotted} = {_shown(dotted, now)}: the run in {config.out} was started with {_shown(dotted, value)}; "
            "a run can only be resumed with the settings it began with",
        )
    was, every = stored.train.validate_every, config.train.validate_every
    require(
        not config.train.patience or was == every,
        f"train.validate_every = {every}: train.patience = {config.train.patience} counts validations, and the run in "
        f"{config.out} had one every {was} updates; keep that, or leave the patience out",
    )


def _decisive(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted settings that decide what is computed."""
    for name, value in settings.items():
        dotted = f"{place}.{name}" if place else name
        if name in FREE.get(place, set()):
            continue
        if isinstance(value, dict):
            yield from _decisive(value, dotted)
        else:
            yield dotted, value


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "full depth" if name == "depth.steps" else "none"
    return repr(value)


def restored(checkpoints: Checkpoints, state: TrainState, batches: Any, parallel: Parallel) -> TrainState:
    """The state to go on from, with the batches moved to its place: the newest checkpoint, else the beginning."""
    saved = checkpoints.restore(state.params, state.optimizer)
    if saved is not None:
        batches.set_state(saved.position)
        step = jnp.asarray(saved.step, jnp.int32)
        state = parallel.place_state(TrainState(step, saved.params, saved.optimizer, state.teacher))
    checkpoints.set_aside(after=int(state.step))
    return state
