"""What trains of a model that begins with weights which exist: everything, its norms, low-rank parts, or its clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxode.config import Config, require
from jaxode.model.low_rank import LOW_RANK

FRESH = (".conditioning.", ".clock.", ".streams.")
"""Within the names of what tells blocks t and h, and of what connects streams: beside trained weights it changes
nothing at first, and it trains always."""


def frozen(params: Mapping[str, Any], config: Config) -> frozenset[str]:
    """Names of the parameters that stay as they are. An encoder's states are matched, and its pooler learns nothing; a
    classifier's head always learns.

    Raises:
        UserError: none would move.
    """
    trains, encodes = config.train.trains, config.model.learns == "encoder"

    def moves(name: str) -> bool:
        if any(part in name for part in FRESH):
            return True
        if name.startswith("head.") and encodes:
            return False
        if name.startswith("head.") and config.model.labels_texts:
            return True
        kept = {"all": True, "lora": name.startswith(LOW_RANK), "norms": "norm" in name, "told": False}
        return kept[trains]

    still = frozenset(name for name in params if not moves(name))
    require(
        len(still) < len(params),
        f'train.trains = "{trains}": this model has none; choose "all" or "lora", or set model.conditioning',
    )
    return still


def partly(optimizer: optax.GradientTransformation, still: frozenset[str]) -> optax.GradientTransformation:
    """An optimizer that leaves some parameters where they are, and keeps no moments of them."""
    if not still:
        return optimizer

    def moving(tree: Any) -> dict[str, Any]:
        return {name: value for name, value in tree.items() if name not in still}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moved: Any
        moved, state = optimizer.update(moving(updates), state, moving(params))
        still_here: Any = jax.tree.map(jnp.zeros_like, updates)
        return still_here | moved, state

    return optax.GradientTransformation(lambda params: optimizer.init(moving(params)), update)
