"""Measuring a trained model, and showing what was measured.

Names load on first use, so that `jaxode.evaluation.figures` stays free of jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.evaluation.divergence import Diverged, diverged
    from jaxode.evaluation.loss import (
        Evaluation,
        LossSums,
        batch_segments,
        evaluate,
        forward_loss,
        kl_divergence,
        token_loss,
    )
    from jaxode.evaluation.sweep import SweepResult, SweepRow, default_configs, default_steps, depth_sweep, save_sweep

_HOMES = {
    "divergence": ("Diverged", "diverged"),
    "loss": ("Evaluation", "LossSums", "batch_segments", "evaluate", "forward_loss", "kl_divergence", "token_loss"),
    "sweep": ("SweepResult", "SweepRow", "default_configs", "default_steps", "depth_sweep", "save_sweep"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Diverged",
    "Evaluation",
    "LossSums",
    "SweepResult",
    "SweepRow",
    "batch_segments",
    "default_configs",
    "default_steps",
    "depth_sweep",
    "diverged",
    "evaluate",
    "forward_loss",
    "kl_divergence",
    "save_sweep",
    "token_loss",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"jaxode.evaluation.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
