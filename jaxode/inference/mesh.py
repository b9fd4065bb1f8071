"""A model at work on several devices: its parameters lie on a mesh, and what is called with them runs there.

The compiler deals out the computation by where parameters and rows lie (Xu et al. 2021, GSPMD). Results are those of
one device up to the order of sums.
"""

from __future__ import annotations

from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxode.config import InferMeshConfig, ModelConfig, require
from jaxode.model.parameters import Parameters
from jaxode.model.partition import AXES, DATA, partition

T = TypeVar("T")


def on_mesh(params: Parameters, model: ModelConfig, config: InferMeshConfig) -> Parameters:
    """The parameters, laid out over the first devices that there are.

    Raises:
        UserError: fewer devices than the mesh has, or heads or hidden units that "tensor" does not divide.
    """
    check_mesh(model, config)
    devices = jax.devices()[: config.data * config.fsdp * config.tensor]
    # Diffrax's loops want axes that the compiler may use as it likes
    mesh = jax.make_mesh(config.sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    return {
        name: jax.device_put(x, NamedSharding(mesh, partition(name, x.shape, mesh.shape))) for name, x in params.items()
    }


def check_mesh(model: ModelConfig, config: InferMeshConfig) -> None:
    """Refuse a mesh that the machine or the model does not allow.

    Raises:
        UserError: as `on_mesh`.
    """
    config.check_fits(model)
    count, there = config.data * config.fsdp * config.tensor, len(jax.devices())
    require(
        count <= there,
        f"mesh.data = {config.data} x mesh.fsdp = {config.fsdp} x mesh.tensor = {config.tensor}: {count} devices, but "
        f"there are {there}; make them smaller",
    )


def deal_rows(params: Parameters, rows: T) -> T:
    """Arrays whose first axis is that of rows, dealt out over the copies of the model where these divide them; else,
    and where parameters lie on one device, as they are.
    """
    mesh = _mesh(params)
    if mesh is None or mesh.shape[DATA] == 1:
        return rows
    where = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.tree.map(lambda x: jax.device_put(x, where) if len(x) % mesh.shape[DATA] == 0 else x, rows)


def _mesh(params: Parameters) -> Mesh | None:
    sharding = getattr(next(iter(params.values()), None), "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None
