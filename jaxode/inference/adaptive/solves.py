"""Adaptive depth with static shapes: early exits, and a budget for every row.

One program a depth and kind of rule: thresholds and budgets are traced. A finished row or token keeps its state, and
the loop ends with the last one, so time is saved when a whole batch is done; `block_evaluations` counts what each row
or token used.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from jaxode.checkpoint import takes_model
from jaxode.config import DepthConfig, UserError, require
from jaxode.depth import (
    Coefficients,
    StepError,
    Stepped,
    StopRule,
    get_solver,
    stack_tables,
    step_budgets,
    step_until,
)
from jaxode.evaluation import fits
from jaxode.inference.adaptive.exits import EXIT_RULES, ExitGate, make_rule
from jaxode.inference.adaptive.readouts import (
    FULL_DEPTH,
    check_depth,
    check_gate,
    check_landing,
    leaving,
    read_out,
    start,
    weights_of,
)
from jaxode.model import Encoder, SequenceClassifier, TokenClassifier, Transformer, plan
from jaxode.model.block import Context
from jaxode.model.gains import Gains
from jaxode.model.steps import StepsByRow
from jaxode.types import Segments, State, Tokens, TokenTypes

SECANT = DepthConfig(solver="secant")


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class AdaptiveOutput:
    """What an adaptive solve returns; rows are sequences [B] or tokens [B, L], by the rule's granularity.

    Attributes:
        logits: [B, L, V], or [B, classes]: coda and head applied to each row's state at its exit.
        state: that state, [B, L, D], before the coda.
        steps: solver steps that each row took.
        exited: whether the rule stopped it (always, with budgets).
        block_evaluations: applications of a block each row used: prelude + its steps + coda, and the coda once more
            for every prediction that the rule read.
        loops: solver steps that the whole batch waited for.
        error: [n, B, L], the free error estimate of every step; see `error_estimates`.
        solver: the one that ran; with budgets of both, "calibrated, euler".
    """

    logits: Float[Array, " B *out"]
    state: State
    steps: Int[Array, " *rows"]
    exited: Bool[Array, " *rows"]
    block_evaluations: Int[Array, " *rows"]
    loops: Int[Array, ""]
    error: Float[Array, "N B L"]
    solver: str = struct.field(pytree_node=False)


@takes_model
def exit_early(
    model: Transformer,
    tokens: Tokens,
    rule: StopRule | str,
    depth: DepthConfig = FULL_DEPTH,
    *,
    segments: Segments | None = None,
    token_types: TokenTypes | None = None,
    landing: Coefficients | None = None,
    weights: Float[Array | np.ndarray, "rows heard"] | None = None,
) -> AdaptiveOutput:
    """Solve as `depth` says and stop each sequence or token where `rule` does; its read-out is that of its last state.

    Without a landing what an exit leaves out is truncated: at full depth, k steps end in the network's own x(k). A
    landing extrapolates to x(N) from the last increments, while the others go on seeing the state at the exit. With
    several groups, a row that exits in one takes no step in those after (and is seen there as it landed), and rules
    that compare steps start anew.

    Args:
        model: any model of `jaxode.model`.
        tokens: ids below the vocabulary size.
        rule: `StepError`, `Acceleration`, `StateChange`, `Divergence`, `Confidence`, `Patience`, or `ExitGate` for
            a model that has one, or a plug-in's; or its name with the threshold, "state_change:0.03".
        depth: a fixed-step solver; static.
        segments: as for the model; padding (0) holds nobody back.
        token_types: as for the model.
        landing: from `jaxode.calibration.fit_landing`, for the full depth; traced.
        weights: how much the rule hears every token; one of 0 holds nobody back, as padding. Where only an answer is
            predicted (`data.answer_after`), the predictions within the question say nothing. None: all real tokens.

    Raises:
        UserError: an unshared model, a depth or a landing that does not fit it, something that is no rule or fits
            neither, or weights that are not one a token.
    """
    stops: Any = make_rule(rule) if isinstance(rule, str) else rule
    rules: tuple[Any, ...] = tuple(EXIT_RULES.values())
    require(isinstance(stops, rules), f"rule = {rule!r}: give one of {', '.join(kind.__name__ for kind in rules)}")
    require(
        isinstance(stops.threshold, int | float | np.generic | np.ndarray | jax.Array),
        f"{type(stops).__name__}: threshold = {stops.threshold!r}: must be a number",
    )
    depth = check_depth(model, depth)
    if isinstance(stops, ExitGate):
        check_gate(model, "ExitGate")
    judges = stops.observes and not isinstance(stops, ExitGate)
    require(
        not (judges and isinstance(model, Encoder)),
        f"{type(stops).__name__}: an encoder without a task predicts nothing to judge by; use StateChange or StepError",
    )
    require(
        not (judges and stops.granularity == "token" and isinstance(model, SequenceClassifier)),
        f'{type(stops).__name__}: granularity = "token": a classifier predicts once a sequence; use "sequence"',
    )
    require(
        not (judges and isinstance(model, TokenClassifier) and model.spans),
        f"{type(stops).__name__}: where an answer begins and ends is no choice among a token's labels to judge by; use "
        "StateChange or StepError",
    )
    problem_type = model.problem_type if isinstance(model, SequenceClassifier) else None
    require(
        not (judges and problem_type in ("multi_label_classification", "regression")),
        f'{type(stops).__name__}: problem_type = "{problem_type}": such a classifier makes no choice of one label to '
        "judge by; use StateChange or StepError",
    )
    if isinstance(stops, StepError):
        require(
            _remembers(model, depth),
            f'StepError with depth.solver = "{depth.solver}": these steps remember no evaluation (the secant rule does '
            'not at size 1), so the estimate is 0 everywhere; use solver "euler" or "ab2", or fewer steps',
        )
    check_landing(model, depth, landing)
    if isinstance(stops.threshold, int | float | np.generic):
        # one program for 0, 0.0 and numpy.float64(0)
        stops = dataclasses.replace(stops, threshold=np.float32(stops.threshold))
    heard = weights_of(segments) if weights is None else jnp.asarray(weights, jnp.float32)
    require(
        weights is None or weights.shape == tokens.shape,
        f"weights of shape {list(np.shape(heard))}: must be one a token, {list(np.shape(tokens))}",
    )
    graph, state = nnx.split(model)
    return _exit_early(state, tokens, segments, token_types, stops, landing, heard, graph=graph, depth=depth)


@partial(jax.jit, static_argnames=("graph", "depth"))
def _exit_early(
    state: Any,
    tokens: Any,
    segments: Any,
    token_types: Any,
    rule: Any,
    landing: Any,
    weights: Any,
    *,
    graph: Any,
    depth: DepthConfig,
) -> AdaptiveOutput:
    model = nnx.merge(graph, state)
    x, context = start(model, tokens, segments, token_types, depth)
    groups = model.stack.groups(depth, context, model.coefficients(depth))
    gated = isinstance(rule, ExitGate)
    observe = partial(leaving, model) if gated else partial(read_out, model, context, segments)
    active, parts, each, begin = None, [], 0, 0
    for group in groups:
        rows = slice(begin, begin + group.schedule.steps)
        begin = rows.stop
        part = step_until(
            group.field,
            x,
            group.schedule,
            depth.solver,
            rule,
            args=group.args,
            coefficients=group.coefficients,
            active=active,
            weights=weights,
            observe=observe,
            landing=jax.tree.map(lambda numbers, rows=rows: numbers[rows], landing),
        )
        x, active = part.state, part.active
        parts.append(part)
        each = group.blocks * get_solver(depth.solver).stages
    each += model.config.coda if rule.observes and not gated else 0
    return _finish(model, x, context, segments, parts, each, ~parts[-1].active, depth.solver)


@takes_model
def solve_budgets(
    model: Transformer,
    tokens: Tokens,
    budgets: Int[np.ndarray | Array, " B"],
    depth: DepthConfig = SECANT,
    *,
    segments: Segments | None = None,
    token_types: TokenTypes | None = None,
) -> AdaptiveOutput:
    """Solve row b over the whole interval of depth in its own budgets[b] steps; all rows in one compiled call.

    A row's result is that of running it alone at `DepthConfig(steps=budgets[b])` with the same solver and schedule; so
    with "auto" some rows may be calibrated and others not. Among budgets of solver "calibrated" stands the model's N as
    well: the trained network itself.

    Args:
        model: any model of `jaxode.model`.
        tokens: ids below the vocabulary size.
        budgets: steps of each row, counted as `depth.steps`; concrete, not traced.
        depth: solver auto, euler, ab2, ab3, secant or calibrated; the schedule's name; `steps` is the most that a
            budget may be (None: the model's N). Static: the budgets are not.
        segments: as for the model.
        token_types: as for the model.

    Raises:
        UserError: an unshared model, a solver or schedule that does not fit, or a budget that is not at hand.
    """
    check_depth(model, depth)
    choices = _choices(model, depth)
    ran = {steps: model.resolve(_with_steps(depth, steps)).solver for steps in choices}
    try:
        asked = np.asarray(budgets)
    except jax.errors.TracerArrayConversionError:
        raise UserError("budgets are traced: give numbers, they are compared with what is at hand first") from None
    require(
        asked.shape == tokens.shape[:1] and np.issubdtype(asked.dtype, np.integer),
        f"budgets of shape {list(asked.shape)} and type {asked.dtype}: give one whole number for each of the "
        f"{tokens.shape[0]} rows",
    )
    for budget in asked:
        require(
            int(budget) in choices,
            f"budgets hold {budget}: at hand are {', '.join(map(str, choices)) or 'none'} steps "
            f'(depth.solver = "{depth.solver}", at most {_most(model, depth)})',
        )
    which = np.searchsorted(choices, asked).astype(np.int32)  # no program of its own
    # calibrated rows and Euler's share a table: a step of Euler's is a coefficient too
    named = dataclasses.replace(depth, solver="calibrated") if "calibrated" in ran.values() else model.resolve(depth)
    graph, state = nnx.split(model)
    out = _solve_budgets(state, tokens, segments, token_types, which, graph=graph, depth=named, choices=choices)
    return dataclasses.replace(out, solver=", ".join(sorted({ran[int(budget)] for budget in asked})))


@partial(jax.jit, static_argnames=("graph", "depth", "choices"))
def _solve_budgets(
    state: Any,
    tokens: Any,
    segments: Any,
    token_types: Any,
    which: Any,
    *,
    graph: Any,
    depth: DepthConfig,
    choices: tuple[int, ...],
) -> Any:
    model = nnx.merge(graph, state)
    x, context = start(model, tokens, segments, token_types, depth)
    depths = [_with_steps(depth, steps) for steps in choices]
    solves = [model.stack.groups(one, context, _coefficients(model, one)) for one in depths]
    parts, each = [], 0
    for groups in zip(*solves, strict=True):
        tables = stack_tables(
            [group.schedule for group in groups], depth.solver, [group.coefficients for group in groups]
        )
        args = groups[0].args
        if any(group.args.steps is not None for group in groups):
            steps = StepsByRow.over(
                [group.schedule for group in groups],
                [group.coefficients for group in groups],
                which,
                partial(Gains.neutral, model.config),
            )
            args = dataclasses.replace(args, steps=steps)
        part = step_budgets(groups[0].field, x, tables, which, args=args)
        x, each = part.state, groups[0].blocks
        parts.append(part)
    return _finish(model, x, context, segments, parts, each, jnp.ones(len(tokens), bool), depth.solver)


def _finish(
    model: Any, x: State, context: Context, segments: Any, parts: list[Stepped], each: int, exited: Any, solver: str
) -> AdaptiveOutput:
    steps = jnp.sum(jnp.stack([part.steps for part in parts]), axis=0)
    return AdaptiveOutput(
        logits=read_out(model, context, segments, x),
        state=x,
        steps=steps,
        exited=exited,
        block_evaluations=model.config.prelude + each * steps + model.config.coda,
        loops=jnp.sum(jnp.stack([part.loops for part in parts])),
        error=jnp.concatenate([part.error for part in parts]),
        solver=solver,
    )


def _remembers(model: Any, depth: DepthConfig) -> bool:
    """Whether memory, or a correction, adds anything to a step; a solver that is no multistep method has a stand-in."""
    spec, own = get_solver(depth.solver), model.coefficients(depth)
    if own is not None:
        tables = [] if own.down is not None else [np.asarray(own.weights)]
    elif spec.rule is not None:
        tables = [spec.rule(schedule.sizes) for schedule in plan(model.config, depth)]
    else:
        tables = []
    return not tables or any(np.any(np.abs(table[:, 1:]) > 1e-9) for table in tables)


def _with_steps(depth: DepthConfig, steps: int) -> DepthConfig:
    return dataclasses.replace(depth, steps=steps)


def _most(model: Any, depth: DepthConfig) -> int:
    return model.config.steps if depth.steps is None else depth.steps


def _choices(model: Any, depth: DepthConfig) -> tuple[int, ...]:
    """The budgets at hand: every number of steps that fits layout, schedule and solver, from the fewest."""
    most = _most(model, depth)
    if depth.solver == "calibrated":
        return tuple(sorted(steps for steps in {*model.calibrations, model.config.steps} if steps <= most))
    return tuple(steps for steps in range(1, most + 1) if fits(model.config, _with_steps(depth, steps)))


def _coefficients(model: Any, depth: DepthConfig) -> Coefficients | None:
    if depth.solver == "calibrated" and depth.steps not in model.calibrations:
        # no memory: Euler's steps, of N the trained network's own
        sizes = [size for schedule in plan(model.config, depth) for size in schedule.sizes]
        return Coefficients(np.asarray(sizes, np.float32)[:, None])
    return model.coefficients(depth)
