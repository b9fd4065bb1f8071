"""Tiny models of every layout, and tokens for them to stop at."""

import jax
import jax.numpy as jnp

SIZES = {"vocab_size": 31, "width": 16, "heads": 2, "length": 8, "steps": 4, "output_init": 1.0}
LAYOUTS = {
    "causal": {},
    "masked, post-norm": {"kind": "masked", "norm_position": "post"},
    "sequence, prelude and coda": {"sharing": "sequence", "groups": 2, "prelude": 1, "coda": 1},
    "cycle, injected": {"sharing": "cycle", "groups": 2, "inject_input": True},
}
TOKENS = jax.random.randint(jax.random.key(0), (3, 6), 0, 31)
SEGMENTS = jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 2, 2, 2, 0]])
