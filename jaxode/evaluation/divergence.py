"""Where along depth a solve stops being finite. Looked at after a failure only: nothing is paid before."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.depth import get_solver
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Tokens


class Diverged(UserError):
    """What a solve led to is not finite."""


def diverged(
    what: str,
    architecture: Architecture,
    params: Parameters,
    tokens: Any,
    inputs: Mapping[str, Any],
    depth: DepthConfig,
) -> Diverged:
    """The error to raise after a solve of `tokens` [B L] gave something not finite.

    Solves them once more, keeping the trajectory, to name the first step after which the state is not finite.

    Args:
        what: is not finite, "the loss", say.
        architecture: the model without its numbers.
        params: its numbers.
        tokens: [B L], of the failing solve.
        inputs: what it got besides, segments and places.
        depth: of the failing solve.
    """
    bound = architecture.bind(params)
    model: ModelConfig = bound.config
    depth = bound.resolve(depth)
    steps = "the model's N" if depth.steps is None else depth.steps
    where = (
        f'{what} is not finite with depth.solver = "{depth.solver}", depth.steps = {steps}, depth.schedule = '
        f'"{depth.schedule}"'
    )
    remedy = "the solve diverged or the weights are damaged; try solver euler at full depth"
    if model.sharing == "none" or get_solver(depth.solver).adaptive:  # these leave no trajectory
        return Diverged(f"{where}: {remedy}")
    finite, times = jax.device_get(
        _finite(params, jnp.asarray(tokens), dict(inputs), architecture=architecture, depth=depth)
    )
    if finite.all():
        return Diverged(f"{where}: the state is finite after every step, so what follows the solve overflows; {remedy}")
    bad = int(np.argmin(finite))
    if bad == 0:
        return Diverged(f"{where}: the state is not finite before the first step: the weights are damaged")
    return Diverged(
        f"{where}: the state is first not finite after step {bad} of {len(finite) - 1} (depth-time {times[bad - 1]:g} "
        f"to {times[bad]:g}); {remedy}"
    )


@partial(jax.jit, static_argnames=("architecture", "depth"))
def _finite(
    params: Parameters, tokens: Tokens, inputs: dict[str, Any], *, architecture: Architecture, depth: DepthConfig
) -> tuple[Bool[Array, " N_plus_1"], Float[Array, " N_plus_1"]]:
    """Whether the state is finite at the start and after every step, and the times."""
    trace = architecture.bind(params).hidden(tokens, depth, **inputs, trace=True).trace
    return jnp.isfinite(trace.states).all(axis=(1, 2, 3)), trace.times
