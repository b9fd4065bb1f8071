"""A forward pass and an update: how much of the chip's peak they use, beside the same network in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from accelerators.chip import PEAK
from accelerators.rivals import rival
from accelerators.scale import Scale
from accelerators.timing import bytes_of, median_seconds
from jaxode.config import DepthConfig, ModelConfig, TrainConfig
from jaxode.data.batches import Batch
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training.parallel import Parallel, make_parallel
from jaxode.training.step import ALONE, init_state, make_train_step

ADJOINTS = ("recursive", "remat")
PLAIN, MESH = "plain", "fsdp of size 1"
GIB = 1 << 30


def training(scale: Scale, known: Mapping[str, float], width: int) -> tuple[dict[str, float], dict[str, str]]:
    """At one width, on all devices."""
    model, devices = scale.causal(width), len(jax.devices())
    rows = scale.rows * devices
    batch = random_batch(model, rows)
    skipped: dict[str, str] = {}
    updates = {name: Update(scale, model, name, batch) for name in ADJOINTS}
    candidates: dict[str, Callable[[], Any]] = {"forward": forward(scale, model, batch), **updates}
    theirs = rival("causal_update", skipped, model, batch.tokens, batch.targets, scale.dtype)
    if theirs is not None:
        candidates["PyTorch"] = theirs
    seconds = median_seconds(candidates)
    tokens = rows * model.length
    # of a model, whatever is computed again: three forward passes an update, all of the [L, L] scores
    useful = tokens * flops(model)
    peak = 1e12 * known[PEAK]
    found = {
        f"D {width}: tokens in a batch": float(tokens),
        f"D {width}, forward: share of the peak": useful / seconds["forward"] / peak,
    }
    for name in ADJOINTS:
        key = f"D {width}, update, {name}"
        found |= {
            f"{key}: share of the peak": 3 * useful / seconds[name] / (peak * devices),
            f"{key}: tokens a second": tokens / seconds[name],
            f"{key}: GiB a device": updates[name].bytes / GIB,
        }
        if theirs is not None:
            found[f"{key}: speed over PyTorch compiled"] = seconds["PyTorch"] / seconds[name]
    return found, skipped


def mesh(scale: Scale, known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """What dealing rows out over a mesh costs where it is of one device, beside a plain `jax.jit` of the step."""
    del known
    width = scale.widths[-1]
    model = scale.causal(width)
    batch = random_batch(model, scale.rows)
    alone = TrainConfig(batch_size=scale.rows, devices=1)
    updates = {
        PLAIN: Update(scale, model, "recursive", batch, _plain()),
        MESH: Update(scale, model, "recursive", batch, make_parallel(alone, by_hand=True)),
    }
    seconds = median_seconds(updates)
    key = f"D {width}, update, {MESH}"
    return {
        f"{key}: time over a plain one": seconds[MESH] / seconds[PLAIN],
        f"{key}: memory over a plain one": updates[MESH].bytes / updates[PLAIN].bytes,
    }, {}


def memory(scale: Scale, known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """Of an update at more and more steps, over that at the fewest; compiled, not run."""
    del known
    width, found = scale.widths[-1], {}
    for adjoint in ("recursive", "nested"):
        sizes = {}
        for steps in scale.depths:
            model = scale.causal(width, steps)
            sizes[steps] = Update(scale, model, adjoint, random_batch(model, scale.rows * len(jax.devices()))).bytes
        least = min(scale.depths)
        for steps, size in sizes.items():
            key = f"D {width}, update, {adjoint}, N = {steps}"
            found[f"{key}: GiB a device"] = size / GIB
            found[f"{key}: memory over N = {least}"] = size / sizes[least]
    return found, {}


class Update:
    """The project's own train step, placed and compiled as a run does it; on all devices, or as `parallel` says."""

    def __init__(self, scale: Scale, model: ModelConfig, adjoint: Any, batch: Batch, parallel: Parallel | None = None):
        """Compile it for this batch."""
        architecture, params = split(make_model(model, dtype=scale.type))
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.1))
        parallel = parallel or make_parallel(TrainConfig(batch_size=len(batch.tokens)))
        self.state = parallel.place_state(init_state(params, optimizer))
        step = parallel.compile(
            lambda spread: make_train_step(architecture, DepthConfig(adjoint=adjoint), optimizer, spread=spread),
            self.state,
        )
        self.batch, self.key = parallel.place_batch(batch), jax.random.key(0)
        self.step = step.lower(self.state, self.batch, self.key).compile()  # pyright: ignore[reportFunctionMemberAccess]
        self.bytes = bytes_of(self.step)

    def __call__(self) -> jax.Array:
        """One update of the state."""
        self.state, metrics = self.step(self.state, self.batch, self.key)
        return metrics.loss


def _plain() -> Parallel:
    """One device, and no mesh."""
    return Parallel(
        (jax.devices()[0],),
        shares=1,
        compile=lambda build, _: jax.jit(build(ALONE), donate_argnums=0),
        place_state=lambda state: state,
        place_batch=lambda batch: jax.tree.map(jnp.asarray, batch),
    )


def forward(scale: Scale, model: ModelConfig, batch: Batch) -> Callable[[], jax.Array]:
    """Logits of the rows of one device, with parameters in the products' type."""
    architecture, params = split(make_model(model, dtype=scale.type))
    params = jax.tree.map(lambda value: value.astype(scale.type), params)
    tokens = jnp.asarray(batch.tokens[: scale.rows])
    # of the logits only what must be computed: their largest, so that none of them is kept
    run = jax.jit(lambda params, tokens: jnp.max(architecture.bind(params)(tokens, DepthConfig()).logits, axis=-1))
    return lambda: run(params, tokens)


def flops(model: ModelConfig) -> int:
    """Of a forward pass, for a token."""
    from jaxode.model import flops_per_token

    return flops_per_token(model).total


def random_batch(model: ModelConfig, rows: int) -> Batch:
    """Tokens made on the spot."""
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (rows, model.length + 1)).astype(np.int32)
    ones = np.ones((rows, model.length))
    return Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones.astype(np.int32))
