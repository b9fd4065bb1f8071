"""One pure train step: (state, batch, seed) -> (state, metrics). The same for one device, a mesh and pmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxode.config import DepthConfig, ObjectiveConfig
from jaxode.data import Batch
from jaxode.model.parameters import Architecture, Parameters
from jaxode.training.curriculum import Solves
from jaxode.training.objectives import Counts, Terms, count, objective_terms
from jaxode.types import Key, Scalar


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class TrainState:
    """What an update changes, and all that a checkpoint must hold besides the data position; and who teaches.

    Attributes:
        step: updates made.
        params: of the model.
        optimizer: its state.
        teacher: parameters of the model that the run began with, where the objective learns from it; they stay.
    """

    step: jax.Array
    params: Parameters
    optimizer: Any
    teacher: Parameters | None = None


@no_type_check
@struct.dataclass
class StepMetrics:
    """Measured on the batch, before its update.

    Attributes:
        loss: of the main solve, nats per predicted token; of an encoder its distance to the teacher.
        gradient_norm: of the whole objective.
        tokens: predicted.
        others: the objective's further terms by name, before their weights.
    """

    loss: Scalar
    gradient_norm: Scalar
    tokens: Scalar
    others: dict[str, Scalar]


PLAIN = ObjectiveConfig()
SCHEDULE = 0x5C4


TrainStep = Callable[[TrainState, Batch, Key], tuple[TrainState, StepMetrics]]


def init_state(params: Parameters, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
    architecture: Architecture,
    depth: DepthConfig,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveConfig = PLAIN,
    solves: Solves | None = None,
    accumulate: int = 1,
    document_mask: bool = False,
    axis: str | None = None,
    teacher: Architecture | None = None,
    frozen: frozenset[str] = frozenset(),
) -> TrainStep:
    """Build the step.

    The loss is sum(nats) / sum(weights) over the whole batch. Denominators are known before the forward pass, so
    micro-batches (`accumulate`) and devices (`axis`, under pmap) only add up, and give the large batch's gradient.

    Args:
        architecture: the model without its numbers.
        depth: how the looped part is solved.
        optimizer: an Optax transformation.
        objective: what is minimised.
        solves: in how many steps; None: the full depth of `depth`.
        accumulate: micro-batches; must divide the rows a device sees.
        document_mask: keep attention within documents.
        axis: name of the pmapped axis, None under jit, where the compiler adds up over the mesh.
        teacher: of the parameters in `TrainState.teacher`.
        frozen: names of parameters that get no gradient.
    """

    def total(x: Any) -> Any:
        return x if axis is None else jax.lax.psum(x, axis)

    def micro(
        params: Parameters, batch: Batch, key: Key, schedule_key: Key, counts: Counts, taught_by: Parameters | None
    ) -> tuple[Scalar, Terms]:
        still = {name: jax.lax.stop_gradient(params[name]) for name in frozen}
        model = architecture.bind({**params, **still})
        chosen = solves or Solves(model.config.steps if depth.steps is None else depth.steps)
        terms = objective_terms(
            model,
            batch,
            chosen,
            objective,
            depth,
            counts,
            document_mask=document_mask,
            key=key,
            schedule_key=schedule_key,
            teacher=None if teacher is None or taught_by is None else teacher.bind(taught_by),
        )
        return terms.total, terms

    gradients = jax.grad(micro, has_aux=True)

    def train_step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(key, state.step)
        # one schedule for all devices and micro-batches
        schedule_key = jax.random.fold_in(key, SCHEDULE)
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        counts = jax.tree.map(lambda x: jnp.maximum(total(x), 1.0), count(batch))

        def part_of(part: Batch, part_key: Key) -> tuple[Any, Terms]:
            return gradients(state.params, part, part_key, schedule_key, counts, state.teacher)

        if accumulate == 1:
            gradient, terms = part_of(batch, key)
        else:

            def add(carry: Any, part: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, part_of(*part)), None

            # Rows are dealt out in strides, so that every device keeps its own rows in each micro-batch.
            parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
            parts = (parts, jax.random.split(key, accumulate))
            zero = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part_of, *jax.tree.map(lambda x: x[0], parts))
            )
            (gradient, terms), _ = jax.lax.scan(add, zero, parts)
        gradient, terms = total(gradient), total(terms)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = cast(Parameters, optax.apply_updates(state.params, updates))
        metrics = StepMetrics(
            loss=terms.loss, gradient_norm=optax.tree.norm(gradient), tokens=counts.tokens, others=terms.others
        )
        return TrainState(state.step + 1, params, optimizer_state, state.teacher), metrics

    return train_step
