"""What an update sends between devices, by layout: collectives and bytes, once and at every step of depth.

    python benchmarks/collectives.py

Compiles the project's own update (AdamW, one shared block of D 256, N = 12, L 64) on 8 emulated devices and reads the
programs; nothing is timed, so any machine gives the same. `compiler` is one copy a device whose sums are left to the
compiler, for comparison. Keeps docs/results/bench-collectives.csv.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from timing import report

from jaxode.config import DepthConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from jaxode.data import Batch
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import init_state, make_optimizer, make_parallel, make_train_step
from jaxode.training.collectives import collectives

MODEL = ModelConfig(vocab_size=512, width=256, heads=8, length=64, steps=12)
ROWS = 16
LAYOUTS = [MeshConfig(8, 1, 1), MeshConfig(1, 8, 1), MeshConfig(1, 1, 8), MeshConfig(2, 2, 2), MeshConfig(4, 1, 2)]


def batch() -> Batch:
    """Rows of any tokens."""
    tokens = np.zeros((ROWS, MODEL.length), np.int32)
    return Batch(tokens, tokens, np.ones(tokens.shape, np.float32), np.ones_like(tokens))


def compiled(mesh: MeshConfig | None) -> str:
    """The optimised program of an update on 8 devices."""
    architecture, params = split(make_model(MODEL))
    optimizer, depth = make_optimizer(OptimizerConfig(name="adamw"), 100), DepthConfig()
    state = init_state(params, optimizer)
    step: Any
    if mesh is None:
        devices = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        rows, whole = (NamedSharding(devices, PartitionSpec(*axes)) for axes in (("data",), ()))
        step = jax.jit(make_train_step(architecture, depth, optimizer), in_shardings=(whole, rows, whole))
        return step.lower(state, batch(), jax.random.key(0)).compile().as_text()
    ways = make_parallel(TrainConfig(batch_size=ROWS, devices=8, mesh=mesh))
    state = ways.place_state(state)
    step = ways.compile(lambda spread: make_train_step(architecture, depth, optimizer, spread=spread), state)
    return step.lower(state, ways.place_batch(batch()), ways.key(0)).compile().as_text()


def main() -> None:
    """Compile and count."""
    rows: list[dict[str, Any]] = []
    for mesh in (None, *LAYOUTS):
        sent = list(collectives(compiled(mesh)))
        name = "compiler" if mesh is None else f"{mesh.data} x {mesh.fsdp} x {mesh.tensor}"
        once, looped = ([one for one in sent if one.looped is wanted] for wanted in (False, True))
        rows.append(
            {
                "layout": name,
                "once": len(once),
                "once_kib": sum(one.bytes for one in once) / 1024,
                "a_step_of_depth": len(looped),
                "a_step_kib": sum(one.bytes for one in looped) / 1024,
                "update_kib": sum(one.bytes * (MODEL.steps if one.looped else 1) for one in sent) / 1024,
            }
        )
    report("bench-collectives", rows)


if __name__ == "__main__":
    main()
