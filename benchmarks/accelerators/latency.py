"""What fewer steps save of the looped part, and what Diffrax adds to a plain scan."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
from flax import nnx

from accelerators.scale import Scale
from accelerators.timing import median_seconds
from jaxode.depth import Schedule, integrate
from jaxode.model import Block, Context, FieldArgs, block_field
from jaxode.model.rotary import rotary_angles


def latency(scale: Scale, known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """At the largest width, one row."""
    del known
    width = scale.widths[0]
    model = scale.causal(width)
    field, params = block_field((Block(model, rngs=nnx.Rngs(0), dtype=scale.type),))
    params = jax.tree.map(lambda value: value.astype(scale.type), params)
    context = Context(rotary=rotary_angles(model.length, model.head_width, model.rotary_base))
    x = jax.random.normal(jax.random.key(1), (1, model.length, width))

    def solved(params: object, x: jax.Array, steps: int) -> jax.Array:
        return integrate(field, x, Schedule.even(float(scale.steps), steps), args=FieldArgs(params, context)).state

    def scanned(params: object, x: jax.Array) -> jax.Array:
        args = FieldArgs(params, context)
        return jax.lax.scan(lambda x, _: (x + field(0.0, x, args), None), x, None, length=scale.steps)[0]

    names = {f"n = {n}": n for n in (scale.steps, *scale.fewer)}
    runs = {name: partial(jax.jit(partial(solved, steps=n)), params, x) for name, n in names.items()}
    seconds = median_seconds({"scan": partial(jax.jit(scanned), params, x), **runs})
    whole = seconds[f"n = {scale.steps}"]
    found = {"looped part, 1 row, full depth: ms": 1e3 * whole, "Diffrax over a plain scan": whole / seconds["scan"]}
    return found | {
        f"n = {n}: time over n/{scale.steps} of full depth": seconds[f"n = {n}"] / whole * scale.steps / n
        for n in scale.fewer
    }, {}
