"""What a solve is and costs: its solver, schedules, block evaluations and FLOPs, from the configuration alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from dataclasses import dataclass

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.depth import SOLVERS, Schedule, get_solver, make_schedule
from jaxode.model.loop import has_rules


def resolve(model: ModelConfig, depth: DepthConfig, calibrated: Container[int] = ()) -> DepthConfig:
    """The same depth with solver and schedule named: "auto" is "calibrated" where n is calibrated and steps are even.

    Elsewhere it is "euler", with the schedule that the model was made for (`model.loop.schedule`). Both take one
    evaluation a step, so what asks for schedules and costs alone needs no `calibrated`.

    Args:
        model: whose N `depth.steps` = None means.
        depth: what was asked for.
        calibrated: numbers of steps that the model holds a calibration for.

    Raises:
        UserError: an unknown solver.
    """
    if depth.solver != "auto":
        SOLVERS.find(depth.solver)
    steps, solver, schedule = model.steps if depth.steps is None else depth.steps, depth.solver, depth.schedule
    if solver == "auto":
        solver = "calibrated" if steps in calibrated and schedule in ("even", "auto") else "euler"
    if schedule == "auto":
        # a calibration has times of its own, a solver that chooses its steps needs the whole interval
        whole = solver == "calibrated" or get_solver(solver).adaptive
        schedule = "even" if whole else model.loop.schedule
    if (solver, schedule) == (depth.solver, depth.schedule):
        return depth
    return dataclasses.replace(depth, solver=solver, schedule=schedule)


def plan(model: ModelConfig, depth: DepthConfig) -> tuple[Schedule, ...]:
    """The schedule of every group of the looped part, in its own depth-time; () for unshared blocks.

    Raises:
        UserError: steps, solver or schedule that do not fit the layout.
    """
    depth = resolve(model, depth)
    spec = get_solver(depth.solver)
    steps = model.steps if depth.steps is None else depth.steps
    require(
        depth.solver != "calibrated" or depth.schedule == "even",
        f'depth.schedule = "{depth.schedule}" with depth.solver = "calibrated": a calibration was fitted with times of '
        "its own; leave the schedule even, or choose another solver",
    )
    require(
        not spec.split or not has_rules(model),
        f'depth.solver = "{depth.solver}": takes a pass apart into its sublayers, but model.loop has rules for a pass '
        "as a whole; choose euler",
    )
    require(
        not spec.split or model.block == "standard",
        f'depth.solver = "{depth.solver}" with model.block = "{model.block}": takes a block apart into sublayers that '
        "follow each other, of which only the standard one is made; choose euler",
    )
    if model.sharing == "none":
        require(
            steps == model.steps and depth.solver == "euler" and depth.schedule in ("even", "unit"),
            f'depth.steps = {steps}, depth.solver = "{depth.solver}", depth.schedule = "{depth.schedule}": an unshared '
            f"model has no shared field to integrate; it runs its {model.steps} blocks once each",
        )
        return ()
    if model.group_steps:
        return _uneven(model, depth, steps)
    require(
        (spec.adaptive and depth.schedule != "unit") or steps % model.groups == 0,
        f"depth.steps = {steps} does not fit {model.groups} groups ({model.sharing}): "
        f"choose a multiple of {model.groups}",
    )
    if model.sharing == "cycle":
        return (make_schedule(depth.schedule, model.steps / model.groups, max(1, steps // model.groups)),)
    whole = make_schedule(depth.schedule, float(model.steps), steps)
    if depth.schedule == "unit" and model.groups > 1:
        return tuple(Schedule.unit(model.steps / model.groups, steps // model.groups) for _ in range(model.groups))
    return whole.split(model.groups)


def _uneven(model: ModelConfig, depth: DepthConfig, steps: int) -> tuple[Schedule, ...]:
    """One schedule of its own for every group, with at least one step each."""
    sizes = model.group_sizes
    require(
        depth.schedule in ("even", "unit"),
        f'depth.schedule = "{depth.schedule}" with model.group_steps = "{model.group_steps}": groups of different '
        "length have schedules of their own; choose even or unit",
    )
    require(
        steps >= len(sizes), f"depth.steps = {steps}: every one of {len(sizes)} groups needs a step; choose more steps"
    )
    counts = [1] * len(sizes)
    # each further step goes where steps are longest, so that the full depth gives every group its own N
    for _ in range(steps - len(sizes)):
        longest = max(range(len(sizes)), key=lambda group: sizes[group] / counts[group])
        counts[longest] += 1
    return tuple(make_schedule(depth.schedule, size, count) for size, count in zip(sizes, counts, strict=True))


def block_evaluations(model: ModelConfig, depth: DepthConfig | None = None) -> int:
    """Applications of a block in one forward pass: prelude + every stage of every step + coda."""
    depth = depth or DepthConfig()
    depth = resolve(model, depth)
    spec = get_solver(depth.solver)
    require(
        not spec.adaptive, f'depth.solver = "{depth.solver}" chooses its own steps: the count is known after the solve'
    )
    schedules = plan(model, depth)
    once = model.prelude + model.coda
    if model.sharing == "none":
        return once + model.inner_blocks * model.steps
    return once + len(model.pass_blocks) * spec.stages * sum(schedule.steps for schedule in schedules)


@dataclass(frozen=True)
class Flops:
    """Forward floating-point operations per token; a multiply and an add are two."""

    block: int
    """One evaluation of the block."""
    head: int
    """Embedding projection and output head."""
    total: int
    """Whole forward pass at the depth asked for."""


def flops_per_token(model: ModelConfig, depth: DepthConfig | None = None, length: int | None = None) -> Flops:
    """Matmuls only, attention counted over the full length (as it is computed); with what a loop adds to its blocks."""
    length = model.length if length is None else length
    width = model.width
    products = 2 * sum(inputs * outputs for inputs, outputs in model.matrices)
    block = products + 4 * length * model.heads * model.head_width
    embedding = model.embedding_width or width
    projection = 2 * width * embedding
    into = projection if model.embedding_width else 0
    out = projection if model.embedding_width or model.kind == "masked" else 0
    head = into + (out + 2 * embedding * model.vocab_size if model.head == "vocabulary" else 0)
    evaluations = block_evaluations(model, depth)
    looped = 0 if model.sharing == "none" else evaluations - model.prelude - model.coda
    told = 2 * model.clock.rank * sum(inputs + outputs for inputs, outputs in model.matrices)
    injected = 4 * width * width if model.loop.injection == "concat" else 0
    rules = looped * told + looped // len(model.pass_blocks) * injected
    return Flops(block=block, head=head, total=block * evaluations + rules + head)
