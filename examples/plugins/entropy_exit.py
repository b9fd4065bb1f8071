r"""Stop a token once its prediction is sharp: the entropy of p, read after every step, is below a threshold in nats.

Source: BranchyNet, Teerapittayanon et al. 2016 (arXiv 1709.01686), whose exits compare the entropy of their read-out.

    python infer.py --plugins examples/plugins/entropy_exit.py --checkpoint books-causal-elastic \
        --task score --file README.md --exit-rule entropy:2.0
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxode.depth import by_granularity, check_rule
from jaxode.plugins import register


@register("exit_rule", "entropy")
@struct.dataclass
class Entropy:
    """- sum p log p < threshold, p from the read-out of x_{i+1}; 0 never exits."""

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = True  # what the model predicts, in step.observed

    def __post_init__(self):
        """Refuse what is no threshold, and take a name of its own."""
        check_rule(self)

    def start(self, x0, observed):
        """Nothing is carried from step to step."""

    def __call__(self, step, carry):
        """Which tokens stop here."""
        log_p = jax.nn.log_softmax(step.observed)
        return by_granularity(self, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1), step) < self.threshold, None
