"""What an update sends between devices, by layout: collectives and bytes, once and at every step of depth, counted in
compiled programs and beside the cost model.

    python benchmarks/collectives.py

Compiles the project's own update (AdamW, one shared block of D 256, N = 12, L 64) on 8, 16 and 64 emulated devices and
reads the programs; nothing is timed, so any machine gives the same. `compiler` is one copy a device whose sums are left
to the compiler, for comparison. What the model leaves out is the scalars of losses and norms, and with "tensor" the
moves of fused projections. Keeps docs/results/bench-collectives.csv.
"""

from __future__ import annotations

import math
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=64"

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from timing import report

from jaxode.config import DepthConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from jaxode.data import Batch
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.model.partition import AXES
from jaxode.training import init_state, make_optimizer, make_parallel, make_train_step
from jaxode.training.collectives import collectives
from jaxode.training.traffic import traffic

MODEL = ModelConfig(vocab_size=512, width=256, heads=8, length=64, steps=12)
LAYOUTS = [
    (8, 1, 1),
    (1, 8, 1),
    (1, 1, 8),
    (2, 2, 2),
    (4, 1, 2),
    (4, 4, 1),
    (64, 1, 1),
    (1, 64, 1),
    (8, 8, 1),
    (8, 4, 2),
]


def rows_of(devices: int) -> int:
    """Of a batch."""
    return max(16, devices)


def batch(rows: int) -> Batch:
    """Rows of any tokens."""
    tokens = np.zeros((rows, MODEL.length), np.int32)
    return Batch(tokens, tokens, np.ones(tokens.shape, np.float32), np.ones_like(tokens))


def compiled(mesh: MeshConfig | None) -> str:
    """The optimised program of an update; of None on 8 devices."""
    architecture, params = split(make_model(MODEL))
    optimizer, depth = make_optimizer(OptimizerConfig(name="adamw"), 100), DepthConfig()
    state = init_state(params, optimizer)
    step: Any
    if mesh is None:
        devices = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
        rows, whole = (NamedSharding(devices, PartitionSpec(*axes)) for axes in (("data",), ()))
        step = jax.jit(make_train_step(architecture, depth, optimizer), in_shardings=(whole, rows, whole))
        return step.lower(state, batch(16), jax.random.key(0)).compile().as_text()
    devices = mesh.data * mesh.fsdp * mesh.tensor
    ways = make_parallel(TrainConfig(batch_size=rows_of(devices), devices=devices, mesh=mesh))
    state = ways.place_state(state)
    step = ways.compile(lambda spread: make_train_step(architecture, depth, optimizer, spread=spread), state)
    return step.lower(state, ways.place_batch(batch(rows_of(devices))), ways.key(0)).compile().as_text()


def main() -> None:
    """Compile and count."""
    rows: list[dict[str, Any]] = []
    shapes = {name: value.shape for name, value in split(make_model(MODEL))[1].items()}
    for sizes in (None, *LAYOUTS):
        mesh = None if sizes is None else MeshConfig(*sizes)
        sent = list(collectives(compiled(mesh)))
        name = "compiler" if mesh is None else f"{mesh.data} x {mesh.fsdp} x {mesh.tensor}"
        once, looped = ([one for one in sent if one.looped is wanted] for wanted in (False, True))
        said = None if sizes is None else traffic(MODEL, shapes, dict(zip(AXES, sizes)), rows_of(math.prod(sizes)))  # noqa: B905
        rows.append(
            {
                "layout": name,
                "once": len(once),
                "once_kib": sum(one.bytes for one in once) / 1024,
                "a_step_of_depth": len(looped),
                "a_step_kib": sum(one.bytes for one in looped) / 1024,
                "update_kib": sum(one.bytes * (MODEL.steps if one.looped else 1) for one in sent) / 1024,
                "model_a_step_kib": "" if said is None else said.a_step / 1024,
                "model_update_kib": "" if said is None else said.update / 1024,
            }
        )
    report("bench-collectives", rows)


if __name__ == "__main__":
    main()
