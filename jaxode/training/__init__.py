"""Training: objective, optimizer, one pure step, devices, the loop."""

from jaxode.training.loop import TrainResult, train
from jaxode.training.optimizer import learning_rate, make_optimizer
from jaxode.training.parallel import make_parallel
from jaxode.training.step import StepMetrics, TrainState, init_state, make_train_step

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
