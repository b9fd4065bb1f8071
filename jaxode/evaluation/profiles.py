"""How a solve looks along depth: norms of state and field, and how the increment turns, on whole batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxode.config import DepthConfig
from jaxode.data import Batch
from jaxode.depth import measure
from jaxode.evaluation.figures import Panel
from jaxode.evaluation.loss import batch_inputs
from jaxode.evaluation.methods import FULL_DEPTH, Method
from jaxode.model.parameters import Architecture, Parameters


@dataclass(frozen=True)
class DepthProfile:
    """One solve along depth: means over all real positions of the text."""

    method: str
    steps: int
    """As in `DepthConfig.steps`."""
    times: tuple[float, ...]
    """t_0 .. t_n, in depth-time."""
    state_norm: tuple[float, ...]
    """||x(t_i)||, i = 0 .. n."""
    field_norm: tuple[float, ...]
    """||f|| at t_i, i = 0 .. n-1."""
    cosine: tuple[float, ...]
    """Between the increments before and after t_i, i = 1 .. n-1."""


@partial(jax.jit, static_argnames=("architecture", "depth", "document_mask"))
def _traced(
    params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig, document_mask: bool
) -> tuple[Any, Any, Any, Any, Any]:
    """Times, what a profile shows, and the number of real positions that it is a mean over."""
    model = architecture.bind(params)
    inputs = batch_inputs(batch, model.config.kind, document_mask)
    trace = model.hidden(jnp.asarray(batch.tokens), depth, **inputs, trace=True).trace
    real = (jnp.asarray(batch.segments) > 0).astype(jnp.float32)
    found = measure(trace.states, trace.times, real)
    return found.times, found.state_norm, found.field_norm, found.cosine, jnp.sum(real)


def depth_profile(
    architecture: Architecture,
    params: Parameters,
    batches: Sequence[Batch],
    method: Method,
    document_mask: bool,
    tick: Callable[[], Any],
) -> DepthProfile:
    """Follow one fixed-step solve of a shared model; `tick` is called after every batch."""
    found = []
    for batch in batches:
        out = _traced(params, batch, architecture=architecture, depth=method.depth, document_mask=document_mask)
        found.append(jax.device_get(out))
        tick()
    *values, counts = zip(*found, strict=True)
    times, *means = (tuple(map(float, np.average(value, axis=0, weights=counts))) for value in values)
    steps = architecture.bind(params).config.steps if method.depth.steps is None else method.depth.steps
    return DepthProfile(method.name, steps, times, *means)


def profile_rows(profile: DepthProfile) -> list[dict[str, Any]]:
    """One row a time point; what is not defined there stays empty."""
    ends = (None,)
    return [
        {
            "method": profile.method,
            "steps": profile.steps,
            "time": time,
            "state_norm": state,
            "field_norm": field,
            "cosine": cosine,
        }
        for time, state, field, cosine in zip(
            profile.times, profile.state_norm, profile.field_norm + ends, ends + profile.cosine + ends, strict=True
        )
    ]


def profile_panels(profiles: Sequence[DepthProfile]) -> list[Panel]:
    """Norms of state and field, and the cosine, against depth-time: one line a profile."""
    ordered = sorted(profiles, key=lambda one: -one.steps)
    names = {f"{one.steps} steps" + (f" ({one.method})" if one.method == FULL_DEPTH else ""): one for one in ordered}

    def panel(label: str, values: Callable[[DepthProfile], tuple[Sequence[float], Sequence[float]]]) -> Panel:
        return Panel({name: values(one) for name, one in names.items()}, "depth-time t", label)

    return [
        panel("||x(t)||, mean over positions", lambda one: (one.times, one.state_norm)),
        panel("||f(x(t))||, mean over positions", lambda one: (one.times[:-1], one.field_norm)),
        panel("cosine of consecutive increments", lambda one: (one.times[1:-1], one.cosine)),
    ]
