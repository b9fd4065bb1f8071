"""The depths that infer.py is asked for, what they mean and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxode.calibration import Calibration, Choice, within_error, within_flips, within_increase, within_share
from jaxode.config import DepthConfig, InferConfig, ModelConfig, require
from jaxode.depth import get_solver
from jaxode.evaluation import default_configs
from jaxode.evaluation.methods import EXACT
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.loading.names import ModelFolder
from jaxode.inference.tasks.line_text import bound_batches
from jaxode.model import flops_per_token, plan, resolve


def named_depth(config: InferConfig) -> DepthConfig:
    """What the flags say of depth."""
    return DepthConfig(
        steps=config.steps,
        solver=config.solver,
        schedule=config.schedule,
        start=config.start,
        start_seed=config.start_seed,
    )


def begun(config: InferConfig, depth: DepthConfig) -> DepthConfig:
    """A depth that another rule has chosen, from the start that the flags ask for."""
    return dataclasses.replace(depth, start=config.start, start_seed=config.start_seed)


def check_start(model: ModelConfig, config: InferConfig) -> None:
    """Refuse flags about noise that a model does not begin with.

    Raises:
        UserError: another start than noise.
    """
    require(
        model.loop.start == "noise" or (config.start, config.start_seed) == ("model", 0),
        f"start = {config.start}, start_seed = {config.start_seed}: this model begins at no noise (model.loop.start = "
        f'"{model.loop.start}"); leave them out',
    )


def check_full_depth(folder: ModelFolder, task: str) -> None:
    """Refuse to compare with a full depth that was never trained.

    Raises:
        UserError: a run that was trained in fewer steps alone.
    """
    require(
        folder.trained.steps is None,
        f"{task}: compares with the full depth, N = {folder.config.steps}, and {folder.path} was trained in "
        f"{folder.trained.steps} steps alone (depth.steps); train it with model.steps = {folder.trained.steps}, or in "
        "several numbers of steps (objective.steps)",
    )


def asked_depth(config: InferConfig, model: ModelConfig, calibrations: Mapping[int, Calibration]) -> DepthConfig:
    """What `steps`, `solver` and `schedule` ask for, with the solver named."""
    depth = named_depth(config)
    # what is fitted anew is not solved by what was fitted before
    depth = resolve(model, depth, () if config.task == "calibrate" else calibrations)
    steps = model.steps if depth.steps is None else depth.steps
    require(
        depth.solver != "calibrated" or steps in calibrations,
        f'solver = "calibrated" with steps = {config.steps}: this run is calibrated for '
        f"{', '.join(map(str, calibrations)) or 'no number of steps'}; add one with --task calibrate --steps n",
    )
    return depth


def meaning(model: ModelConfig, depth: DepthConfig, trained: int | None = None) -> str | None:
    """What an unusual depth, its solver named, means in the steps of training; None for the trained network itself.

    `trained` is N of training where the model at hand has another; steps of size 1 are counted by that.
    """
    full, steps = model.steps, model.steps if depth.steps is None else depth.steps
    full = trained if trained is not None and depth.schedule == "unit" else full
    if get_solver(depth.solver).adaptive and depth.schedule != "unit":
        # these choose their steps
        return None
    if depth.schedule == "unit" and steps != full:
        share = f", each of {model.groups} groups its share" if model.sharing == "sequence" else ""
        if steps < full:
            return (
                f"{steps} steps of size 1: truncation, which stops after {steps} of the N = {full} of training{share}"
            )
        return (
            f"{steps} steps of size 1, more than the N = {full} of training: the loop goes on beyond its end{share}, "
            "to states that the weights have never seen"
        )
    if steps == 1 < full:
        return f"1 step: one evaluation of the block stands for all N = {full}"
    if steps > full:
        return (
            f"{steps} steps, more than the N = {full} of training: the same interval of depth in smaller steps, "
            "which the weights have never seen; dearer, and usually worse"
        )
    if depth.solver == "calibrated":
        return f"{steps} steps of N = {full}: calibrated to end where the {full} of training end"
    sizes = _sizes(model, depth)
    if max(sizes, default=1.0) - min(sizes, default=1.0) > 1e-6:
        return f"{steps} steps of N = {full}: sizes from h = {min(sizes):.3g} to {max(sizes):.3g} steps of training"
    if steps < full:
        return (
            f"{steps} steps of N = {full}: h = {full / steps:.3g}, each step stands for {full / steps:.3g} of training"
        )
    exact = depth.solver in EXACT
    return (
        None if exact else f"{depth.solver} in {steps} steps: another way through depth than Euler's, that of training"
    )


def as_trained(model: ModelConfig, trained: DepthConfig, asked: DepthConfig) -> str | None:
    """How to ask for the depth that a run was trained at, where another one, its solver named, is asked for; None where
    it is that one, or the depth that is meant when nothing is asked for.
    """
    own = resolve(model, trained)
    usual = resolve(model, DepthConfig())
    unusual = [name for name in ("solver", "schedule") if getattr(own, name) != getattr(usual, name)]
    flags = {name: getattr(own, name) for name in (*(("steps",) if own.steps is not None else ()), *unusual)}
    if all(getattr(asked, name) == value for name, value in flags.items()):
        return None
    alone = [f"in {own.steps} steps alone"] if own.steps is not None else []
    how = " and ".join([*alone, *(f"with {name} {flags[name]}" for name in unusual)])
    return f"trained {how}: {' '.join(f'--{name} {value}' for name, value in flags.items())} runs it so"


def risk(model: ModelConfig, depth: DepthConfig) -> str | None:
    """What Euler's method risks at this depth, and the remedy; None where it risks nothing that is known of.

    Post-norm blocks end in a norm of their own, from which longer steps lead away.
    """
    resized = any(abs(size - 1.0) > 1e-6 for size in _sizes(model, depth))
    if model.norm_position != "post" or depth.solver != "euler" or not resized:
        return None
    steps = model.steps if depth.steps is None else depth.steps
    remedy = "leave --steps out"
    if steps < model.steps:
        remedy = f"calibrate them first with --task calibrate --steps {steps} --file TEXT, or leave --steps out"
    return f"{steps} Euler steps through post-norm blocks often diverge, or predict far from the full depth: {remedy}"


def _sizes(model: ModelConfig, depth: DepthConfig) -> list[float]:
    """Of every step, in steps of training; none of an unshared model."""
    return [size for schedule in plan(model, depth) for size in schedule.sizes]


def choose_depth(loaded: LoadedModel, config: InferConfig) -> Choice:
    """What `budget`, `max_loss_increase`, `max_label_flips` or `max_error` allows."""
    depths = [begun(config, calibration.depth) for calibration in loaded.calibrations.values()]
    if config.budget is not None:
        return within_share(loaded.config.model, depths, config.budget)
    for name in ("max_label_flips", "max_loss_increase"):
        require(
            getattr(config, name) is None or getattr(loaded.model, "problem_type", "") != "regression",
            f"{name} = {getattr(config, name)}: this model gives numbers and no labels that could change; "
            "choose the depth with --steps or --budget",
        )
    batches = bound_batches(loaded, config)
    if config.max_label_flips is not None:
        return within_flips(loaded, batches, depths, config.max_label_flips, confidence=config.confidence)
    if config.max_error is not None:
        return within_error(loaded, batches, depths, config.max_error, confidence=config.confidence)
    assert config.max_loss_increase is not None
    return within_increase(loaded, batches, depths, config.max_loss_increase, confidence=config.confidence)


def sweep_depths(
    model: ModelConfig, depth: DepthConfig, config: InferConfig, calibrations: Mapping[int, Calibration]
) -> tuple[DepthConfig, ...]:
    """The step counts asked for, or the default ones, and every calibration; `steps` alone is the one it names."""
    if depth.steps is not None:
        return (depth,)
    fitted = [calibration.depth for calibration in calibrations.values()] if config.solver == "auto" else []
    fitted = tuple(begun(config, one) for one in fitted)
    if not config.at:
        return (*(begun(config, one) for one in default_configs(model, depth.solver, depth.schedule)), *fitted)
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
