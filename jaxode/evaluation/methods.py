"""What a work-precision report compares: ways to solve one trained network, at equal numbers of block evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.depth import get_solver
from jaxode.evaluation.sweep import default_steps, fits, resolved
from jaxode.model import plan
from jaxode.model.parameters import CALIBRATION, Architecture, Parameters

DIVISORS = (1, 2, 3, 4, 6)
FULL_DEPTH = "full depth"
RESCALING = "step rescaling"

FAMILIES = (
    ("truncation", "euler", "unit"),
    (RESCALING, "euler", "even"),  # Chen et al. 2023
    ("Lie splitting", "lie", "even"),
    ("geometric 1.5", "euler", "geometric:1.5"),
    ("geometric 2", "euler", "geometric:2"),
    ("secant", "secant", "even"),
    ("AB2", "ab2", "even"),
    ("AB3", "ab3", "even"),
    ("Heun", "heun", "even"),
    ("midpoint", "midpoint", "even"),
    ("RK4", "rk4", "even"),
)
"""Name, solver and schedule of each family of methods that needs no data."""

EXACT = ("euler", "lie", "secant")
"""At h = 1 these are the trained network itself."""


@dataclass(frozen=True)
class Method:
    """One way to solve the network."""

    name: str
    """Of its family; methods of one name make one line of a figure."""
    depth: DepthConfig
    parameters: Parameters = field(default_factory=dict)
    """Of solver "calibrated", by `calibration_parameters`; they take the place of any that the model holds."""
    tokens: int | None = None
    """That it was fitted on; None where nothing was fitted."""
    minutes: float | None = None
    """That the fit took, where they are known."""

    @property
    def numbers(self) -> int:
        """That it brings beside the model's own weights."""
        return sum(int(np.size(value)) for value in self.parameters.values())


def check_shared(model: ModelConfig) -> None:
    """Refuse a model without a field to solve.

    Raises:
        UserError: an unshared model.
    """
    require(
        model.sharing != "none",
        "an unshared model runs its blocks once each: there are no methods to compare; use --task score",
    )


def evaluation_counts(model: ModelConfig, asked: int | None = None) -> tuple[int, ...]:
    """Applications of the looped part's block to compare at: N/1, N/2, N/3, N/4, N/6 where they fit, and `asked`.

    Raises:
        UserError: an unshared model, whose blocks run once each.
    """
    check_shared(model)
    counts = set(default_steps(model, DIVISORS))
    return tuple(sorted(counts if asked is None else counts | {asked}, reverse=True))


@dataclass(frozen=True)
class ReadyMethods:
    """Methods of one model, made ready to be measured; the full depth stands first."""

    methods: tuple[Method, ...]
    """Their depths resolved, their parameters on the device: a calibration of their own, or those of the model."""
    numbers: tuple[int, ...]
    """What each brings beside the weights."""
    weights: Parameters
    """Without any calibration."""


def full_depth(model: ModelConfig) -> Method:
    """N steps of size 1, by the name that profiles are told by."""
    return Method(FULL_DEPTH, DepthConfig(steps=model.steps, solver="euler", schedule="even"))


def ready(architecture: Architecture, params: Parameters, methods: Sequence[Method]) -> ReadyMethods:
    """The full depth and `methods`, without those that are the full depth by another name.

    Raises:
        UserError: an unshared model, or a method that does not fit the layout.
    """
    model: ModelConfig = architecture.bind(params).config
    check_shared(model)
    full = full_depth(model)
    others = [
        dataclasses.replace(method, depth=architecture.bind(params | method.parameters).resolve(method.depth))
        for method in methods
    ]
    chosen = [full, *(method for method in others if resolved(model, method.depth) != full.depth)]
    for method in chosen:
        plan(model, method.depth)
    held = {name: value for name, value in params.items() if name.startswith(CALIBRATION)}
    return ReadyMethods(
        # a method's own calibration takes the place of one that the model came with
        tuple(dataclasses.replace(one, parameters=jax.device_put(one.parameters or held)) for one in chosen),
        tuple(_numbers(model, method, held) for method in chosen),
        {name: value for name, value in params.items() if name not in held},
    )


def _numbers(model: ModelConfig, method: Method, held: Parameters) -> int:
    """What a method brings beside the weights: its own coefficients, or those that the model holds for its steps."""
    if method.parameters or method.depth.solver != "calibrated":
        return method.numbers
    prefix = f"{CALIBRATION}{method.depth.steps or model.steps}."
    return sum(int(np.size(value)) for name, value in held.items() if name.startswith(prefix))


def comparators(model: ModelConfig, counts: Sequence[int]) -> tuple[Method, ...]:
    """Every method of `FAMILIES` at every count of block evaluations that it can spend without a rest.

    A solver of k stages takes n/k steps for n evaluations. What is the full depth under another name is left out, and
    so are geometric schedules of N steps. Step rescaling also runs with 2N steps: a trained network is a discrete map,
    so more steps than it was trained with take it away from itself as fewer do.
    """
    methods = []
    for name, solver, schedule in FAMILIES:
        stages = get_solver(solver).stages
        for count in dict.fromkeys((2 * model.steps, *counts) if name == RESCALING else counts):
            depth = DepthConfig(steps=count // stages, solver=solver, schedule=schedule) if count >= stages else None
            full = count == model.steps and (solver in EXACT or schedule != "even")
            # more unit steps than N cut nothing off
            longer = count > model.steps and schedule == "unit"
            if depth is not None and count % stages == 0 and not full and not longer and fits(model, depth):
                methods.append(Method(name, depth))
    return tuple(methods)
