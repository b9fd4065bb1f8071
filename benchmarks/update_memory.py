"""How near is what a run says that an update takes of a device's memory to what its compiled program takes?

    python benchmarks/update_memory.py

Compiles updates of several models and layouts on eight emulated devices, runs none of them, and keeps
docs/results/update-memory.csv: bytes of each device as estimated before compilation and as XLA plans them, and the
first over the second.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerators.timing import bytes_of
from timing import report
from tqdm import tqdm

from jaxode.config import Config, DepthConfig, MeshConfig, ModelConfig, ObjectiveConfig, TrainConfig
from jaxode.data.batches import Batch
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training.curriculum import Curriculum
from jaxode.training.memory import estimate
from jaxode.training.optimizer import make_optimizer
from jaxode.training.parallel import make_parallel
from jaxode.training.step import init_state, make_train_step

MODEL = ModelConfig(vocab_size=2048)
"""The default recipe: D 128, N 12, rows of 128 tokens."""


def cases() -> dict[str, Config]:
    """What is compiled, by name."""

    def run(
        train: dict[str, Any] | None = None, depth: Any = "recursive", objective: Any = "fixed", **model: Any
    ) -> Config:
        layout: dict[str, Any] = {"devices": 1, **(train or {})}
        return Config(
            model=dataclasses.replace(MODEL, **model),
            depth=DepthConfig(adjoint=depth),
            objective=ObjectiveConfig(objective),
            train=TrainConfig(**layout),
        )

    return {
        "default": run(),
        "N 48": run(steps=48),
        "nested": run(depth="nested"),
        "nested, N 48": run(depth="nested", steps=48),
        "remat": run(depth="remat"),
        "V 8192": run(vocab_size=8192),
        "V 256, L 256": run(vocab_size=256, length=256),
        "D 512, 4 rows": run({"batch_size": 4}, width=512, heads=8),
        "masked, post-norm": run(kind="masked", norm_position="post"),
        "prelude 1, coda 1": run(prelude=1, coda=1),
        "12 different blocks": run(sharing="none"),
        "4 micro-batches": run({"accumulate": 4}),
        "bfloat16": run({"precision": "bfloat16"}),
        "two depths": run(objective="random"),
        "data 8": run({"devices": 8}),
        "fsdp 8": run({"devices": 8, "mesh": MeshConfig(1, 8, 1)}),
        "2 x 2 x 2": run({"devices": 8, "mesh": MeshConfig(2, 2, 2)}),
    }


def measured(config: Config) -> tuple[int, int]:
    """Bytes of each device: estimated, and of the compiled program."""
    model, train = config.model, config.train
    architecture, params = split(make_model(model, dtype=jnp.dtype(train.precision)))
    optimizer, parallel = make_optimizer(config.optimizer, train.updates), make_parallel(train)
    state = parallel.place_state(init_state(params, optimizer))
    curriculum = Curriculum(config)
    solves = max((curriculum.at(update) for update in range(50)), key=lambda one: (one.main, one.short or 0))
    step: Any = parallel.compile(
        lambda spread: make_train_step(
            architecture,
            config.depth,
            optimizer,
            objective=config.objective,
            solves=solves,
            accumulate=train.accumulate,
            spread=spread,
        ),
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state),
    )
    ids = np.zeros((train.batch_size, model.length), np.int32)
    batch = parallel.place_batch(Batch(ids, ids, np.ones(ids.shape, np.float32), ids + 1))
    program = step.lower(state, batch, parallel.key(0)).compile()
    return estimate(config, config.depth, parallel.shares, state).total, bytes_of(program)


def main() -> None:
    """Compile, compare, keep."""
    rows = []
    for name, config in tqdm(cases().items()):
        estimated, taken = measured(config)
        rows.append({"update": name, "estimated": estimated, "compiled": taken, "ratio": round(estimated / taken, 3)})
        jax.clear_caches()
    report("update-memory", rows)


if __name__ == "__main__":
    main()
