"""The step over many devices: jit over a mesh with shardings (today's pjit), or pmap. Same losses, same checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxode.config import TrainConfig, require
from jaxode.data import Batch
from jaxode.training.step import TrainState, TrainStep
from jaxode.types import Device

DATA_AXIS = "data"


@dataclass(frozen=True)
class Parallel:
    """Devices, and how states and batches are placed on them."""

    devices: tuple[Device, ...]
    compile: Callable[[Callable[[str | None], TrainStep]], TrainStep]
    """From a builder axis -> step to the compiled step."""
    place_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[Batch], Any]


def choose_devices(config: TrainConfig) -> tuple[Device, ...]:
    """The devices of a run.

    Raises:
        UserError: fewer devices than asked for, or a batch that they do not divide.
    """
    available = jax.devices()
    count = config.devices or len(available)
    require(
        count <= len(available),
        f"train.devices = {count}: only {len(available)} {available[0].platform} device(s) here; 0 takes them all",
    )
    rows = config.batch_size // config.accumulate
    require(
        rows % count == 0,
        f"train.batch_size = {config.batch_size} in train.accumulate = {config.accumulate} micro-batches gives {rows} "
        f"rows, which {count} devices do not divide: make train.batch_size a multiple of {count * config.accumulate}",
    )
    return tuple(available[:count])


def make_parallel(config: TrainConfig) -> Parallel:
    """Either mode over the run's devices."""
    devices = choose_devices(config)
    return (_mesh if config.parallel == "jit" else _pmap)(devices)


def _mesh(devices: tuple[Device, ...]) -> Parallel:
    # Diffrax needs Auto axes: under Explicit ones its loops fail to type-check their carries.
    mesh = jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def compile_step(build: Callable[[str | None], TrainStep]) -> TrainStep:
        return jax.jit(
            build(None),
            in_shardings=(replicated, rows, replicated),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        )

    return Parallel(
        devices,
        compile=compile_step,
        place_state=lambda state: jax.device_put(state, replicated),
        place_batch=lambda batch: jax.device_put(batch, rows),
    )


def _pmap(devices: tuple[Device, ...]) -> Parallel:
    count = len(devices)

    def compile_step(build: Callable[[str | None], TrainStep]) -> TrainStep:
        # The state has no device axis (in_axes None), so a checkpoint is the same in both modes.
        return jax.pmap(
            build(DATA_AXIS), axis_name=DATA_AXIS, in_axes=(None, 0, None), out_axes=(None, None), devices=devices
        )

    return Parallel(
        devices,
        compile=compile_step,
        place_state=lambda state: jax.device_put(state, devices[0]),
        place_batch=lambda batch: jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch),
    )
