"""Training: objective, optimizer, one pure step, devices, the loop.

Names load on first use, so that `python -m jaxode.training --help` imports no jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.training.optimizer import learning_rate, make_optimizer
    from jaxode.training.parallel import make_parallel
    from jaxode.training.run import TrainResult, train
    from jaxode.training.step import StepMetrics, TrainState, init_state, make_train_step

_HOMES = {
    "optimizer": ("learning_rate", "make_optimizer"),
    "parallel": ("make_parallel",),
    "run": ("TrainResult", "train"),
    "step": ("StepMetrics", "TrainState", "init_state", "make_train_step"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "StepMetrics",
    "TrainResult",
    "TrainState",
    "init_state",
    "learning_rate",
    "make_optimizer",
    "make_parallel",
    "make_train_step",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"jaxode.training.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
