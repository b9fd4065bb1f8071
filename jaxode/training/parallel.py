"""The step over many devices: jit over a mesh (today's pjit), or pmap. The same losses, the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxode import hosts
from jaxode.config import TrainConfig, require
from jaxode.data import Batch
from jaxode.model.parameters import Parameters
from jaxode.model.partition import AXES, DATA, FSDP, ROWS, TENSOR, partition
from jaxode.training.step import ALONE, Gradients, Spread, TrainState, TrainStep
from jaxode.types import Device, Key

WHOLE = PartitionSpec()


@dataclass(frozen=True)
class Parallel:
    """Devices, and how states and batches are placed on them."""

    devices: tuple[Device, ...]
    shares: int
    """Devices, or groups of them, over which the rows of a batch are dealt out."""
    compile: Callable[[Callable[[Spread], TrainStep], TrainState], TrainStep]
    """From a builder spread -> step to the compiled step for states like this one."""
    place_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[Batch], Any]
    """Of several processes each brings its `part`."""
    deal_batch: Callable[[Batch], Any] = lambda batch: batch
    """A batch of which every process holds all rows, dealt out to validate on; as it is where one device validates."""
    key: Callable[[int], Key] = jax.random.key
    """From a seed to the key of a run, on all devices."""
    part: tuple[int, int] = (0, 1)
    """Which share of the rows this process brings, of how many."""


def choose_devices(config: TrainConfig) -> tuple[Device, ...]:
    """The devices of a run.

    Raises:
        UserError: fewer devices than asked for, a mesh that they do not form, or a batch that it does not divide.
    """
    available = jax.devices()
    count = config.devices or len(available)
    require(
        count <= len(available),
        f"train.devices = {count}: only {len(available)} {available[0].platform} device(s) here; 0 takes them all",
    )
    data, fsdp, tensor = config.mesh.over(count)
    rows, shares = config.batch_size // config.accumulate, data * fsdp
    groups = f"{count} devices" if tensor == 1 else f"{shares} groups of {tensor} devices"
    unit = shares * config.accumulate
    below = config.batch_size // unit * unit
    near = " or ".join(str(size) for size in (below, below + unit) if size)
    require(
        rows % shares == 0,
        f"train.batch_size = {config.batch_size} in train.accumulate = {config.accumulate} micro-batches gives {rows} "
        f"rows, which {groups} do not divide: make train.batch_size {near}, or another multiple of {unit}",
    )
    return tuple(available[:count])


def make_parallel(config: TrainConfig, *, by_hand: bool = False) -> Parallel:
    """Either mode over the run's devices; with `by_hand` a mesh of one deals its rows out as any other does."""
    devices = choose_devices(config)
    if config.parallel == "pmap":
        return _pmap(devices)
    # Diffrax needs Auto axes: under Explicit ones its loops fail to type-check their carries.
    sizes = config.mesh.over(len(devices))
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    return _mesh(mesh, devices, by_hand)


def _mesh(mesh: Mesh, devices: tuple[Device, ...], by_hand: bool) -> Parallel:
    axes = ROWS if by_hand else tuple(axis for axis in ROWS if mesh.shape[axis] > 1)
    spread = Spread(axes, mesh.shape[TENSOR], partial(_over_mesh, mesh, axes)) if axes or mesh.size > 1 else ALONE
    rows, whole = NamedSharding(mesh, PartitionSpec(ROWS)), NamedSharding(mesh, WHOLE)

    def place(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(partial(_placement, mesh), tree)

    def compile_step(build: Callable[[Spread], TrainStep], state: TrainState) -> TrainStep:
        # it leaves as it came, so that its buffers are taken again
        states = place(state)
        return jax.jit(
            build(spread), in_shardings=(states, rows, whole), out_shardings=(states, whole), donate_argnums=0
        )

    return Parallel(
        devices,
        shares=mesh.shape[DATA] * mesh.shape[FSDP],
        compile=compile_step,
        place_state=lambda state: jax.tree.map(_put, state, place(state)),
        place_batch=partial(jax.tree.map, partial(jax.make_array_from_process_local_data, rows))
        if hosts.several()
        else lambda batch: jax.device_put(batch, rows),
        deal_batch=partial(jax.tree.map, partial(_dealt, rows)) if mesh.size > 1 else lambda batch: batch,
        key=lambda seed: jax.jit(partial(jax.random.key, seed), out_shardings=whole)(),
        part=_part(rows),
    )


def _dealt(rows: NamedSharding, x: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(x.shape, rows, x.__getitem__)


def _put(x: jax.Array, where: NamedSharding) -> jax.Array:
    """On the devices of all processes, each of which brings all of it."""
    if x.sharding == where or not hosts.several():
        return jax.device_put(x, where)
    return jax.device_put(jax.device_get(x), where)


def _part(rows: NamedSharding) -> tuple[int, int]:
    """Which share of the rows this process brings, of how many: those of its own devices, once each.

    Raises:
        UserError: processes whose devices hold different numbers of shares, or partly the same ones.
    """
    shares, held = rows.mesh.shape[DATA] * rows.mesh.shape[FSDP], {}
    for device, index in rows.devices_indices_map((shares,)).items():
        assert index is not None
        held.setdefault(device.process_index, set()).add(index[0].start or 0)
    parts = sorted({tuple(sorted(mine)) for mine in held.values()})
    require(
        len({len(part) for part in parts}) == 1 and sum(map(len, parts)) == shares,
        f"{dict(rows.mesh.shape)}: the rows of a batch do not fall apart by process; let train.mesh.tensor divide the "
        "devices of a process, or be a multiple of them",
    )
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def _placement(mesh: Mesh, path: Any, leaf: Any) -> NamedSharding:
    """Of a parameter, and of what an optimizer keeps of one, under its name and in its shape."""
    name = getattr(path[-1], "key", "") if path else ""
    return _placed(mesh, name if isinstance(name, str) else "", leaf)


def _over_mesh(mesh: Mesh, axes: tuple[str, ...], gradients: Gradients) -> Gradients:
    """Each device computes on its own rows; the axis "tensor" is left to the compiler.

    What "fsdp" cuts is put together before the solve, one collective a matrix however often that is applied, and the
    sum of its gradient is taken apart behind it. Diffrax's loops are traced as they are on one device: they know
    nothing of values that vary over a mesh (check_vma), and want one axis at least that is not taken by hand.
    """

    def whole(params: Parameters) -> Parameters:
        return {name: jax.lax.with_sharding_constraint(x, _placed(mesh, name, x, FSDP)) for name, x in params.items()}

    def run(params: Parameters, batch: Batch, key: Any, schedule_key: Any, teacher: Parameters | None) -> Any:
        cuts = {name: _cut_by_hand(mesh, name, x) for name, x in params.items()}

        def on_a_device(*args: Any) -> Any:
            gradient, terms, tokens = gradients(*args)
            return _summed(gradient, cuts, axes), terms, tokens

        gradient, terms, tokens = jax.shard_map(
            on_a_device,
            mesh=mesh,
            in_specs=(WHOLE, PartitionSpec(ROWS), WHOLE, WHOLE, WHOLE),
            out_specs=({name: _spec(axis) for name, axis in cuts.items()}, WHOLE, WHOLE),
            axis_names=set(ROWS),
            check_vma=False,
        )(whole(params), batch, key, schedule_key, None if teacher is None else whole(teacher))
        placed = {name: jax.lax.with_sharding_constraint(x, _placed(mesh, name, x)) for name, x in gradient.items()}
        return placed, terms, tokens

    return run


def _placed(mesh: Mesh, name: str, value: Any, whole: str | None = None) -> NamedSharding:
    """Where a parameter lies; not cut by the axis `whole`."""
    cuts = partition(name, tuple(value.shape), mesh.shape)
    return NamedSharding(mesh, PartitionSpec(*(None if cut == whole else cut for cut in cuts)))


def _cut_by_hand(mesh: Mesh, name: str, value: Any) -> int:
    """The axis of a gradient that "fsdp" cuts as it is summed; -1: none.

    What "tensor" cuts as well would first be put together by the compiler: it is summed whole, and cut afterwards.
    """
    cuts = tuple(partition(name, tuple(value.shape), mesh.shape))
    return cuts.index(FSDP) if FSDP in cuts and TENSOR not in cuts else -1


def _spec(axis: int) -> PartitionSpec:
    return WHOLE if axis < 0 else PartitionSpec(*(None,) * axis, FSDP)


def _summed(gradient: Parameters, cuts: Mapping[str, int], axes: tuple[str, ...]) -> Parameters:
    """Over all devices; of a matrix that is cut a device's part alone."""

    def total(x: jax.Array, axis: int) -> jax.Array:
        if axis < 0:
            return jax.lax.psum(x, axes)
        part = jax.lax.psum_scatter(x, FSDP, scatter_dimension=axis, tiled=True)
        return jax.lax.psum(part, DATA) if DATA in axes else part

    return {name: total(x, cuts[name]) for name, x in gradient.items()}


def _pmap(devices: tuple[Device, ...]) -> Parallel:
    count = len(devices)

    def summed(gradients: Gradients) -> Gradients:
        def run(*args: Any) -> Any:
            gradient, terms, tokens = gradients(*args)
            return jax.lax.psum(gradient, DATA), terms, tokens

        return run

    spread = Spread((DATA,), wrap=summed)

    def compile_step(build: Callable[[Spread], TrainStep], state: TrainState) -> TrainStep:
        del state
        # The state has no device axis (in_axes None), so a checkpoint is the same in both modes.
        return jax.pmap(build(spread), axis_name=DATA, in_axes=(None, 0, None), out_axes=(None, None), devices=devices)

    return Parallel(
        devices,
        shares=count,
        compile=compile_step,
        place_state=lambda state: jax.device_put(state, devices[0]),
        place_batch=lambda batch: jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch),
    )
