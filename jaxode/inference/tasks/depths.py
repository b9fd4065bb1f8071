"""The depths that infer.py is asked for, what they mean and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxode.calibration import Calibration, Choice, within_flips, within_increase, within_share
from jaxode.config import DepthConfig, InferConfig, ModelConfig, require
from jaxode.depth import get_solver
from jaxode.evaluation import default_configs
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.classifier_text import bound_batches
from jaxode.model import flops_per_token, plan


def asked_depth(config: InferConfig, model: ModelConfig, calibrations: Mapping[int, Calibration]) -> DepthConfig:
    """What `steps`, `solver` and `schedule` ask for."""
    solver = config.solver
    if solver == "auto":
        fitted = config.steps in calibrations and config.task != "calibrate" and config.schedule == "even"
        solver = "calibrated" if fitted else "euler"
    require(
        solver != "calibrated" or config.steps in calibrations,
        f'solver = "calibrated" with steps = {config.steps}: this run is calibrated for '
        f"{', '.join(map(str, calibrations)) or 'no number of steps'}; add one with --task calibrate --steps n",
    )
    return DepthConfig(steps=config.steps, solver=solver, schedule=config.schedule)


def meaning(model: ModelConfig, steps: int | None) -> str | None:
    """What an unusual number of steps means."""
    if steps == 1 < model.steps:
        return f"1 step: one evaluation of the block stands for all N = {model.steps}"
    if steps is not None and steps > model.steps:
        return (
            f"{steps} steps, more than the N = {model.steps} of training: the same interval of depth in smaller steps, "
            "which the weights have never seen; dearer, and usually worse"
        )
    return None


def choose_depth(loaded: LoadedModel, config: InferConfig) -> Choice:
    """What `budget`, `max_loss_increase` or `max_label_flips` allows."""
    depths = [calibration.depth for calibration in loaded.calibrations.values()]
    if config.budget is not None:
        return within_share(loaded.config.model, depths, config.budget)
    batches = bound_batches(loaded, config)
    if config.max_label_flips is not None:
        return within_flips(loaded, batches, depths, config.max_label_flips, confidence=config.confidence)
    assert config.max_loss_increase is not None
    return within_increase(loaded, batches, depths, config.max_loss_increase, confidence=config.confidence)


def sweep_depths(
    model: ModelConfig, depth: DepthConfig, config: InferConfig, calibrations: Mapping[int, Calibration]
) -> tuple[DepthConfig, ...]:
    """The step counts asked for, or the default ones, and every calibration; `steps` alone is the one it names."""
    if depth.steps is not None:
        return (depth,)
    fitted = tuple(calibration.depth for calibration in calibrations.values()) if config.solver == "auto" else ()
    if not config.at:
        return (*default_configs(model, depth.solver, depth.schedule), *fitted)
    require(
        not get_solver(depth.solver).adaptive,
        f'at = "{config.at}" with solver = "{depth.solver}": it chooses its own steps; leave one of them out',
    )
    asked = tuple(dataclasses.replace(depth, steps=steps) for steps in config.at_steps)
    for one in asked:
        plan(model, one)
    return (*asked, *fitted)


def cost(model: ModelConfig, depth: DepthConfig, evaluations: int | float) -> str:
    """Counted, not measured: an adaptive solver's own count stands for its steps."""
    flops = flops_per_token(model)
    total = flops.block * evaluations + flops.head
    steps = "chosen" if get_solver(depth.solver).adaptive else depth.steps or model.steps
    return f"steps {steps} ({depth.solver}): {evaluations:g} block evaluations a token, {total / 1e6:.3g} MFLOP"
