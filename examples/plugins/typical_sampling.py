r"""Draw from the tokens whose surprise is nearest to the expected one (locally typical sampling).

Source: Meister et al. 2022 (arXiv 2202.00666, section 4): the fewest tokens of probability p together, in the order of
| -log p(token) - entropy |.

    python infer.py --plugins examples/plugins/typical_sampling.py --checkpoint books-causal \
        --sampling typical:0.9 --prompt "Once upon a time"
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxode.config import require
from jaxode.plugins import register


@register("sampling", "typical")
@dataclass(frozen=True)
class Typical:
    """Keep probability p, from the most typical token on."""

    p: float
    remembers = False  # the tokens of the text so far are not read

    def __post_init__(self):
        """Refuse a p that keeps nothing."""
        require(0 < self.p <= 1, f"typical = {self.p}: must lie in (0, 1]")

    def __call__(self, logits, seen):
        """Exclude a token where those before it hold p already; equals of the last one stay."""
        log_p = jax.nn.log_softmax(logits, axis=-1)
        present = jnp.where(jnp.isfinite(log_p), log_p, 0.0)  # what an earlier method excludes has p = 0
        entropy = -jnp.sum(jnp.exp(log_p) * present, axis=-1, keepdims=True)
        distance = jnp.where(jnp.isfinite(log_p), jnp.abs(-present - entropy), jnp.inf)
        order = jnp.argsort(distance, axis=-1)
        held = jnp.cumsum(jnp.exp(jnp.take_along_axis(log_p, order, axis=-1)), axis=-1)
        inside = jnp.concatenate([jnp.ones_like(held[..., :1], bool), held[..., :-1] < self.p], axis=-1)
        last = jnp.max(jnp.where(inside, jnp.sort(distance, axis=-1), -jnp.inf), axis=-1, keepdims=True)
        return jnp.where(distance <= last, logits, -jnp.inf)
