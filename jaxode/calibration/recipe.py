"""How a short solve is fitted: what is fitted, and how the gradient moves it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxode.config import require

Form = Literal["step", "unit", "global", "schedule"]


@dataclass(frozen=True)
class Recipe:
    """How the gradient moves a fit: Adam, its learning rate falling to 0 along a cosine."""

    learning_rate: float
    gains: float
    """Share of the learning rate, which is that of the weights, at which gains move."""
    correction: float
    adapters: float
    warmup: float = 0.0
    """Share of the updates over which the learning rate rises."""
    clip: float = math.inf
    """Largest global norm of a gradient."""


RECIPES: dict[str, Recipe] = {
    "step": Recipe(2e-2, gains=0.5, correction=0.1, adapters=0.1),
    "unit": Recipe(3e-3, gains=1.0, correction=0.0, adapters=1.0, warmup=0.05, clip=1.0),
}


@dataclass(frozen=True)
class Fit:
    """How to calibrate.

    Attributes:
        form: of the weights. "step": K of their own in each step. "unit": the same, but instead of a schedule and least
            squares the fit begins at the trained block itself, applied n times (one that is told t: in n even steps),
            and has no correction; for networks that turn along depth, with adapters. "global": those of solver
            "secant" with one gain for all steps. "schedule": the step sizes alone. The last two fit nothing else and
            leave the rest unread.
        memory: K, evaluations that a step combines; 1 is a fitted step size alone.
        rank: R, directions in which an increment may be turned; 0 leaves the correction out.
        gains: let the block's features weigh differently from step to step (`jaxode.model.gains`); fitted by gradient,
            so there are none without updates.
        adapters: rank of low-rank changes of the block's matrices in each step (`jaxode.model.adapters`), with gains;
            0 leaves them out.
        candidates: schedules, the best by the full trajectory, that are fitted to some of the batches to compare.
        updates: gradient steps on the gap between full depth and short solve after that; 0 leaves them out.
        learning_rate: of these updates, the largest; 0 takes that of the form in `RECIPES`.
    """

    form: Form = "step"
    memory: int = 2
    rank: int = 32
    gains: bool = True
    adapters: int = 0
    candidates: int = 4
    updates: int = 100
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (
            ("memory", 1),
            ("rank", 0),
            ("adapters", 0),
            ("candidates", 1),
            ("updates", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"calibration {name} = {value}: must be at least {least}")
        require(
            self.form in get_args(Form), f'calibration form = "{self.form}": allowed are {", ".join(get_args(Form))}'
        )
        require(
            0 <= self.learning_rate < math.inf,
            f"calibration learning_rate = {self.learning_rate}: must be a number of at least 0",
        )
        if self.form == "unit":
            object.__setattr__(self, "rank", 0)
        elif self.form != "step":
            for name, nothing in (("rank", 0), ("gains", False), ("adapters", 0), ("updates", 0)):
                object.__setattr__(self, name, nothing)
        require(
            not self.adapters or (self.gains and self.updates > 0),
            f"calibration adapters = {self.adapters}: they are fitted with gains, by updates; let there be both, or "
            "leave them 0",
        )

    @property
    def recipe(self) -> Recipe:
        """With the learning rate of its own, if it has one."""
        recipe = RECIPES.get(self.form, RECIPES["step"])
        return dataclasses.replace(recipe, learning_rate=self.learning_rate or recipe.learning_rate)
