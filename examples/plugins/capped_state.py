r"""A pass that ends in a state of bounded size: x min(1, c / rms(x)), token by token, with c = 8.

Without it the residual stream grows with every loop. Where a state is smaller than c the rule changes nothing, which a
norm does not leave alone.

    python train.py --plugins examples/plugins/capped_state.py --model.loop.boundary capped \
        --train.updates 20 --train.final-batches 8 --train.no-sweep --out runs/capped
    python infer.py --plugins examples/plugins/capped_state.py --checkpoint runs/capped --prompt "def " --steps 6
"""

import jax.numpy as jnp

from jaxode.plugins import register

LARGEST = 8.0


@register("boundary", "capped")
def capped(x):
    """The state at the end of a pass, [B, L, D], to the one that the next pass begins with."""
    size = jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True))
    return x * jnp.minimum(1.0, LARGEST / jnp.maximum(size, 1e-6))
