"""One pure train step: (state, batch, seed) -> (state, metrics). The same for one device, a mesh and pmap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxode.config import DepthConfig, ObjectiveConfig
from jaxode.data import Batch
from jaxode.model.parameters import Architecture, Parameters
from jaxode.model.tensor_parallel import dealt
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
Gradients = Callable[..., tuple[Parameters, Any, Scalar]]
"""(params, batch, key, schedule_key, teacher) -> gradient of a device's rows, terms of all rows, tokens predicted."""


@dataclass(frozen=True)
class Spread:
    """How several devices compute the gradient of one batch together, each of its own rows; by default there is one.

    A sum over devices stands behind a whole solve and its gradient. Left to the compiler it would stand in the loop
    over depth: the gradient of a shared block grows from step to step, and a loop carries no unfinished sum.
    """

    axes: tuple[str, ...] = ()
    """Named axes of devices over which the rows are dealt out."""
    groups: int = 1
    """Of devices that share every block."""
    wrap: Callable[[Gradients], Gradients] = lambda gradients: gradients
    """Runs the function on every device with whole parameters and its own rows, and adds the gradients up."""

    def total(self, x: Any) -> Any:
        """The sum over all devices, on each."""
        return jax.lax.psum(x, self.axes) if self.axes else x


ALONE = Spread()


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
    spread: Spread = ALONE,
    teacher: Architecture | None = None,
    frozen: frozenset[str] = frozenset(),
    skips: bool = False,
) -> TrainStep:
    """Build the step.

    The loss is sum(nats) / sum(weights) over the whole batch. Denominators are known before the forward pass, so
    micro-batches (`accumulate`) and devices (`spread`) only add up, and give the large batch's gradient.

    Args:
        architecture: the model without its numbers.
        depth: how the looped part is solved.
        optimizer: an Optax transformation.
        objective: what is minimised.
        solves: in how many steps; None: the full depth of `depth`.
        accumulate: micro-batches; must divide the rows a device sees.
        document_mask: keep attention within documents.
        spread: over which devices, and how.
        teacher: of the parameters in `TrainState.teacher`.
        frozen: names of parameters that get no gradient.
        skips: an update whose loss or gradient is not finite leaves parameters and optimizer as they are, and counts.
    """

    def micro(
        params: Parameters, batch: Batch, key: Key, schedule_key: Key, counts: Counts, taught_by: Parameters | None
    ) -> tuple[Scalar, Terms]:
        still = {name: jax.lax.stop_gradient(params[name]) for name in frozen}
        model = dealt(architecture.bind({**params, **still}), spread.groups)
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
            teacher=None if teacher is None or taught_by is None else dealt(teacher.bind(taught_by), spread.groups),
        )
        return terms.total, terms

    of_part = jax.grad(micro, has_aux=True)

    def gradients(
        params: Parameters, batch: Batch, key: Key, schedule_key: Key, taught_by: Parameters | None
    ) -> tuple[Parameters, Terms, Scalar]:
        if spread.axes:
            key = jax.random.fold_in(key, jax.lax.axis_index(spread.axes))
        counts = jax.tree.map(lambda x: jnp.maximum(spread.total(x), 1.0), count(batch))

        def part_of(part: Batch, part_key: Key) -> tuple[Any, Terms]:
            return of_part(params, part, part_key, schedule_key, counts, taught_by)

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
        return gradient, spread.total(terms), counts.tokens

    spread_gradients = spread.wrap(gradients)

    def train_step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(key, state.step)
        # one schedule for all devices and micro-batches
        schedule_key = jax.random.fold_in(key, SCHEDULE)
        gradient, terms, tokens = spread_gradients(state.params, batch, key, schedule_key, state.teacher)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = cast(Parameters, optax.apply_updates(state.params, updates))
        metrics = StepMetrics(
            loss=terms.loss, gradient_norm=optax.tree.norm(gradient), tokens=tokens, others=terms.others
        )
        if skips:
            finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
            params, optimizer_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, optimizer_state),
                (state.params, state.optimizer),
            )
        return TrainState(state.step + 1, params, optimizer_state, state.teacher), metrics

    return train_step
