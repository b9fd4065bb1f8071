"""What one solve says on its way: predictions at every depth, and an error estimate that costs no evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float

from jaxode.checkpoint import takes_model
from jaxode.config import DepthConfig, require
from jaxode.depth import Coefficients, combine, get_solver, sequence_mean, step_until
from jaxode.model import Transformer, plan
from jaxode.model.block import Context
from jaxode.types import Segments, State, Tokens, TokenTypes

FULL_DEPTH = DepthConfig()


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class ErrorEstimates:
    """The free error estimate of every step, relative to the state's norm.

    Attributes:
        token: [n, B, L].
        sequence: [n, B], the mean over a sequence's tokens without padding.
        solver: the one that ran.
    """

    token: Float[Array, "N B L"]
    sequence: Float[Array, "N B"]
    solver: str = struct.field(pytree_node=False)


@takes_model
def read_outs(
    model: Transformer,
    tokens: Tokens,
    depth: DepthConfig = FULL_DEPTH,
    *,
    segments: Segments | None = None,
    token_types: TokenTypes | None = None,
    landing: Coefficients | None = None,
) -> Float[Array, "N_plus_1 B *out"]:
    """Logits at every time t_0 .. t_n of one solve: coda and head applied to x(t_i).

    Entry i is the read-out of the same solve truncated after i steps; entry 0 that of the embedding and the prelude.
    With a landing it is the prediction for the end of the solve that i steps allow.

    Args:
        model: any model of `jaxode.model`.
        tokens: ids below the vocabulary size.
        depth: a fixed-step solver; static.
        segments: as for the model.
        token_types: as for the model.
        landing: from `jaxode.calibration.fit_landing`, for the full depth; traced.

    Raises:
        UserError: an unshared model, or a depth or a landing that does not fit it.
    """
    depth = check_depth(model, depth)
    check_landing(model, depth, landing)
    graph, state = nnx.split(model)
    return _read_outs(state, tokens, segments, token_types, landing, graph=graph, depth=depth)


@partial(jax.jit, static_argnames=("graph", "depth"))
def _read_outs(
    state: Any, tokens: Any, segments: Any, token_types: Any, landing: Any, *, graph: Any, depth: DepthConfig
) -> Any:
    model = nnx.merge(graph, state)
    states = model.hidden(tokens, depth, segments=segments, token_types=token_types, trace=True).trace.states
    if landing is not None:
        states = _land(states, landing, [schedule.steps for schedule in plan(model.config, depth)])
    _, context = model.start(tokens, segments=segments, token_types=token_types)
    # one after another: n + 1 heads at once would need their scratch memory at once
    return jax.lax.map(partial(read_out, model, context, segments), states)


@takes_model
def exit_probabilities(
    model: Transformer,
    tokens: Tokens,
    depth: DepthConfig = FULL_DEPTH,
    *,
    segments: Segments | None = None,
    token_types: TokenTypes | None = None,
) -> Float[Array, "B L N"]:
    """Where the model's own exit gate would have every token leave: p_1 .. p_n of one solve in which none does.

    p_i = l_i (1 - l_1) .. (1 - l_{i-1}) with l_i = sigmoid(w x(t_i) + b); the last takes the rest, so that they add up
    to 1. With `read_outs` they give what Ouro's own code does at a threshold: every token is read out at the first i
    where p_1 + .. + p_i reaches it. `exit_early` with `ExitGate` stops such a token's state as well.

    Args:
        model: with `model.loop.exit_gate`.
        tokens: ids below the vocabulary size.
        depth: a fixed-step solver; static.
        segments: as for the model.
        token_types: as for the model.

    Raises:
        UserError: a model without the gate, or a depth that does not fit it.
    """
    check_gate(model, "exit_probabilities")
    depth = check_depth(model, depth)
    graph, state = nnx.split(model)
    return _exit_probabilities(state, tokens, segments, token_types, graph=graph, depth=depth)


@partial(jax.jit, static_argnames=("graph", "depth"))
def _exit_probabilities(
    state: Any, tokens: Any, segments: Any, token_types: Any, *, graph: Any, depth: DepthConfig
) -> Any:
    model = nnx.merge(graph, state)
    states = model.hidden(tokens, depth, segments=segments, token_types=token_types, trace=True).trace.states
    leaves = jax.lax.map(partial(leaving, model), states[1:])
    leaves = leaves.at[-1].set(1.0)
    left = jnp.cumprod(jnp.concatenate([jnp.ones_like(leaves[:1]), 1.0 - leaves[:-1]]), axis=0)
    return jnp.moveaxis(leaves * left, 0, -1)


@takes_model
def error_estimates(
    model: Transformer,
    tokens: Tokens,
    depth: DepthConfig = FULL_DEPTH,
    *,
    segments: Segments | None = None,
    token_types: TokenTypes | None = None,
) -> ErrorEstimates:
    """What memory added to each step of a solve, relative to the state; costs no block evaluation of its own.

    ||e_i|| / ||x_{i+1}||, e_i the multistep step less the Euler step, as `Stepped.error` defines it for every solver.

    Args:
        model: any model of `jaxode.model`.
        tokens: ids below the vocabulary size.
        depth: a fixed-step solver; static.
        segments: as for the model.
        token_types: as for the model.

    Raises:
        UserError: an unshared model, or a depth that does not fit it.
    """
    depth = check_depth(model, depth)
    graph, state = nnx.split(model)
    return _error_estimates(state, tokens, segments, token_types, graph=graph, depth=depth)


@partial(jax.jit, static_argnames=("graph", "depth"))
def _error_estimates(
    state: Any, tokens: Any, segments: Any, token_types: Any, *, graph: Any, depth: DepthConfig
) -> ErrorEstimates:
    model = nnx.merge(graph, state)
    x, context = start(model, tokens, segments, token_types, depth)
    errors = []
    for group in model.stack.groups(depth, context, model.coefficients(depth)):
        part = step_until(
            group.field, x, group.schedule, depth.solver, args=group.args, coefficients=group.coefficients
        )
        x = part.state
        errors.append(part.error)
    token, weights = jnp.concatenate(errors), weights_of(segments)
    sequence = jax.vmap(lambda errors: sequence_mean(errors, weights))(token)
    return ErrorEstimates(token, sequence, depth.solver)


def start(model: Any, tokens: Any, segments: Any, token_types: Any, depth: DepthConfig) -> tuple[State, Context]:
    """The state at which the looped part begins, and what the blocks read beside it."""
    x, context = model.start(tokens, segments=segments, token_types=token_types)
    return model.stack.begin(x, depth, context)


def read_out(model: Any, context: Context, segments: Any, x: State) -> Any:
    """Coda and head, from a state at any depth."""
    return model.read_out(model.stack.leave(x, context), segments)


def leaving(model: Any, x: State) -> Float[Array, "B L"]:
    """What the exit gate reads from a state: the probability to leave there, of what has not left before."""
    return jax.nn.sigmoid(model.stack.exit_gate(model.stack.observed(x)).astype(jnp.float32))[..., 0]


def check_gate(model: Any, name: str) -> None:
    """Refuse a model without an exit gate."""
    require(
        model.stack.exit_gate is not None,
        f"{name}: model.loop.exit_gate = false: this model has no gate that says when to leave; exit_early takes "
        "StateChange, Divergence or Confidence",
    )


def weights_of(segments: Any) -> Any:
    """1 for a token, 0 for padding, [B, L]; None without segments."""
    return None if segments is None else (segments > 0).astype(jnp.float32)


def check_depth(model: Any, depth: DepthConfig) -> DepthConfig:
    """The depth with its solver named, unless something is wrong with it, before anything is compiled."""
    depth = model.resolve(depth)
    spec = get_solver(depth.solver)
    require(
        not spec.adaptive,
        f'depth.solver = "{depth.solver}" chooses its own steps, all rows together: choose a fixed-step solver',
    )
    require(
        bool(plan(model.config, depth)),
        'model.sharing = "none": an unshared model has no field over depth to stop early; adaptive depth needs a '
        "shared one",
    )
    return depth


def check_landing(model: Any, depth: DepthConfig, landing: Coefficients | None) -> None:
    """One row a step, two increments at most, the model's width."""
    if landing is None:
        return
    steps = sum(schedule.steps for schedule in plan(model.config, depth))
    require(
        landing.steps == steps,
        f"a landing for {landing.steps} steps, but the solve takes {steps}: fit_landing makes one for the full depth",
    )
    require(landing.memory <= 2, f"a landing that reads {landing.memory} increments: a step knows 2; use fit_landing")
    wanted = model.config.width * model.config.streams
    width = wanted if landing.up is None else landing.up.shape[-1]
    require(
        width == wanted,
        f"a landing of width {width}, the loop's state has {wanted}, model.width = {model.config.width} in "
        f"each of its streams: fit one to this model",
    )


def _land(states: Any, landing: Coefficients, steps: list[int]) -> Any:
    """Every state but the first, extrapolated to the end of the solve."""
    ends, firsts = [states[0]], np.cumsum([0, *steps])
    for i in range(len(states) - 1):
        last = states[i + 1] - states[i]
        # a group's first step has none before it
        before = jnp.zeros_like(last) if i in firsts else states[i] - states[i - 1]
        ends.append(combine(landing, i, states[i + 1], (last, before)[: landing.memory]))
    return jnp.stack(ends)
