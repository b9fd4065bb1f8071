r"""Keep log Z of the predictions near 0, so that logits do not drift: the term (log sum exp z)^2.

Source: PaLM, Chowdhery et al. 2022 (arXiv 2204.02311, section 5), whose weight of it is 1e-4.

    python train.py --plugins examples/plugins/z_loss.py --objective.terms z_loss:1e-4 \
        --train.updates 20 --train.final-batches 8 --train.no-sweep
"""

import jax
import jax.numpy as jnp

from jaxode.plugins import register


@register("objective", "z_loss")
def z_loss(out, batch):
    """A number a position, [B, L]; those of predicted tokens are averaged as the loss is."""
    return jnp.square(jax.nn.logsumexp(out.logits, axis=-1))
