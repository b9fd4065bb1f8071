"""What a trajectory over depth looks like: sizes of state and increment, and how the increment turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Trace:
    """A solve's trajectory with its measurements, averaged over everything but depth.

    Attributes:
        states: x(t_i) for i = 0 .. n.
        times: t_i, in depth-time.
        state_norm: mean over positions of ||x(t_i)||_2, i = 0 .. n.
        field_norm: mean of ||x(t_{i+1}) - x(t_i)||_2 / h_i, i = 0 .. n-1: ||f|| for a one-stage solver.
        cosine: mean cosine between increments i and i+1, i = 0 .. n-2 (Pappone et al. 2025).
    """

    states: Float[Array, " N_plus_1 *shape"]
    times: Float[Array, " N_plus_1"]
    state_norm: Float[Array, " N_plus_1"]
    field_norm: Float[Array, " N"]
    cosine: Float[Array, " N_minus_1"]


def measure(
    states: Float[Array, " N_plus_1 *shape"],
    times: Sequence[float] | Float[Array, " N_plus_1"],
    weights: Float[Array, " *row"] | None = None,
) -> Trace:
    """Norms along the last axis and cosines of consecutive increments; `weights` of positions, None: all the same."""
    at = jnp.asarray(times, jnp.float32)
    increments = jnp.diff(states, axis=0)
    sizes = jnp.linalg.norm(increments, axis=-1)
    dots = jnp.sum(increments[1:] * increments[:-1], axis=-1)
    cosines = dots / jnp.maximum(sizes[1:] * sizes[:-1], 1e-12)
    return Trace(
        states=states,
        times=at,
        state_norm=_mean(jnp.linalg.norm(states, axis=-1), weights),
        field_norm=_mean(sizes, weights) / jnp.diff(at),
        cosine=_mean(cosines, weights),
    )


def join(traces: Sequence[Trace]) -> Trace:
    """Traces of consecutive intervals, one after the other; the shared end points are kept once."""
    states = jnp.concatenate([traces[0].states, *(trace.states[1:] for trace in traces[1:])])
    times = traces[0].times
    for trace in traces[1:]:
        times = jnp.concatenate([times, trace.times[1:] + times[-1]])
    return measure(states, times)


def _mean(x: Array, weights: Array | None) -> Float[Array, " N"]:
    axes = tuple(range(1, x.ndim))
    if weights is None:
        return jnp.mean(x, axis=axes)
    return jnp.sum(x * weights, axis=axes) / jnp.sum(weights)
