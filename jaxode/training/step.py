"""One pure train step: (state, batch, seed) -> (state, metrics). The same for one device, a mesh and pmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxode.config import DepthConfig
from jaxode.data import Batch
from jaxode.evaluation import forward_loss
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Key, Scalar


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class TrainState:
    """What an update changes, and all that a checkpoint must hold besides the data position."""

    step: jax.Array
    params: Parameters
    optimizer: Any


@no_type_check
@struct.dataclass
class StepMetrics:
    """Measured on the batch, before its update. `loss` is in nats per predicted token."""

    loss: Scalar
    gradient_norm: Scalar
    tokens: Scalar


TrainStep = Callable[[TrainState, Batch, Key], tuple[TrainState, StepMetrics]]


def init_state(params: Parameters, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
    architecture: Architecture,
    depth: DepthConfig,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    document_mask: bool = False,
    axis: str | None = None,
) -> TrainStep:
    """Build the step.

    The loss is sum(nats) / sum(weights) over the whole batch. The denominator is known before the forward pass, so
    micro-batches (`accumulate`) and devices (`axis`, under pmap) only add up, and give the large batch's gradient.

    Args:
        architecture: the model without its numbers.
        depth: how the looped part is solved.
        optimizer: an Optax transformation.
        accumulate: micro-batches; must divide the rows a device sees.
        document_mask: keep attention within documents.
        axis: name of the pmapped axis, None under jit, where the compiler adds up over the mesh.
    """

    def total(x: Any) -> Any:
        return x if axis is None else jax.lax.psum(x, axis)

    def micro_loss(params: Parameters, batch: Batch, key: Key, tokens: Scalar) -> Scalar:
        sums = forward_loss(architecture.bind(params), batch, depth, document_mask=document_mask, key=key)
        return sums.nats / tokens

    def train_step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(key, state.step)
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        tokens = jnp.maximum(total(jnp.sum(batch.weights)), 1.0)
        value_and_grad = jax.value_and_grad(micro_loss)
        if accumulate == 1:
            loss, gradient = value_and_grad(state.params, batch, key, tokens)
        else:

            def add(carry: Any, micro: Any) -> tuple[Any, None]:
                part, micro_key = micro
                return jax.tree.map(jnp.add, carry, value_and_grad(state.params, part, micro_key, tokens)), None

            zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
            # Rows are dealt out in strides, so that every device keeps its own rows in each micro-batch.
            parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
            (loss, gradient), _ = jax.lax.scan(add, zero, (parts, jax.random.split(key, accumulate)))
        loss, gradient = total(loss), total(gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = cast(Parameters, optax.apply_updates(state.params, updates))
        metrics = StepMetrics(loss=loss, gradient_norm=optax.tree.norm(gradient), tokens=tokens)
        return TrainState(state.step + 1, params, optimizer_state), metrics

    return train_step
