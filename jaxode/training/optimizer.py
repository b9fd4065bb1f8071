"""AdamW with warm-up, cosine decay and clipping, assembled from Optax."""

from __future__ import annotations

import optax

from jaxode.config import OptimizerConfig
from jaxode.model.parameters import Parameters


def learning_rate(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Linear from 0 to the peak during the warm-up, then half a cosine down to `final_fraction` of the peak."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * updates),
        decay_steps=updates,
        end_value=config.learning_rate * config.final_fraction,
    )


def decays(params: Parameters) -> dict[str, bool]:
    """Weight decay belongs to matrices: kernels and embeddings, not biases, norms and gates."""
    return {name: value.ndim >= 2 for name, value in params.items()}


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW (Loshchilov & Hutter 2019)."""
    adamw = optax.adamw(
        learning_rate(config, updates),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip else adamw
