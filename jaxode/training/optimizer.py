"""AdamW or Muon with warm-up, cosine decay and clipping, assembled from Optax."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import optax
from optax.contrib import muon

from jaxode.config import OptimizerConfig, require
from jaxode.config.training import RATES
from jaxode.model.low_rank import LOW_RANK
from jaxode.model.parameters import Parameters

MUON_RMS = 0.2
"""Root mean square of a Muon update in units of the learning rate: about AdamW's, so that one learning rate serves both
(Liu et al. 2025, arXiv 2502.16982, section 2.2)."""


def learning_rate(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Linear from 0 to the peak during the warm-up, then half a cosine down to `final_fraction` of the peak."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * updates),
        decay_steps=updates,
        end_value=config.learning_rate * config.final_fraction,
    )


def muon_or_adamw(params: Parameters) -> dict[str, str]:
    """Muon takes the matrices inside the blocks, AdamW embeddings, heads and vectors (Jordan et al. 2024)."""
    return {
        name: "muon" if name.startswith("stack.") and value.ndim == 2 else "adamw" for name, value in params.items()
    }


def parts(params: Mapping[str, Any]) -> dict[str, str]:
    """Whose factor moves each: the head's, the embedding's, that of the projections with which the blocks' sublayers
    write to the stream, or of what tells blocks t and h; the rest has none.
    """
    ends = (".attention.output", ".feed_forward.output")

    def part(name: str) -> str:
        # low-rank changes are of the matrix that they stand beside
        name = name.removeprefix(LOW_RANK).removesuffix(".down").removesuffix(".up")
        if name.startswith(("head.", "embedding.")):
            return name.partition(".")[0]
        if ".conditioning." in name or ".clock." in name:
            return "conditioning"
        return "branch" if name.rpartition(".")[0].endswith(ends) else "rest"

    return {name: part(name) for name in params}


def rates(config: OptimizerConfig) -> dict[str, float]:
    """The factors by part."""
    return {name.removesuffix("_rate"): getattr(config, name) for name in RATES}


def check_rates(config: OptimizerConfig, params: Iterable[str]) -> None:
    """Refuse a factor on what does not move.

    Raises:
        UserError: none of the parameters is of its part.
    """
    there = set(parts(dict.fromkeys(params)).values())
    for part, rate in rates(config).items():
        require(
            rate == 1.0 or part in there,
            f"optimizer.{part}_rate = {rate:g}: nothing moves that it is for (of what trains there is: "
            f"{', '.join(sorted(there))}); leave it out",
        )


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW (Loshchilov & Hutter 2019), or Muon (Jordan et al. 2024) where it applies."""
    rate, decay = learning_rate(config, updates), config.weight_decay
    update = optax.adamw(rate, b1=config.beta1, b2=config.beta2, eps=config.epsilon, weight_decay=decay, mask=_decays)
    if config.name == "muon":
        matrices = muon(rate, eps=config.epsilon, weight_decay=decay, consistent_rms=MUON_RMS)
        update = optax.partition({"muon": matrices, "adamw": update}, muon_or_adamw)
    factors = rates(config) | {"rest": 1.0}
    if set(factors.values()) != {1.0}:
        # after all else: Adam and Muon would normalise a factor on the gradient away
        scales: dict[Hashable, optax.GradientTransformation] = {
            name: optax.scale(factor) for name, factor in factors.items()
        }
        update = optax.chain(update, optax.partition(scales, parts))
    return optax.chain(optax.clip_by_global_norm(config.clip), update) if config.clip else update


def _decays(params: Any) -> Any:
    """Weight decay belongs to matrices: kernels and embeddings, not biases, norms and gates, nor the table of token
    types, most of which a text without pairs never reads.
    """
    return {name: getattr(value, "ndim", 0) >= 2 and ".types." not in name for name, value in params.items()}
