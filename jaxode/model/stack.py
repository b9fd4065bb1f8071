"""The stack of blocks: unshared prelude, the looped part solved over depth, unshared coda."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.typing import DTypeLike

from jaxode.config import DepthConfig, ModelConfig
from jaxode.depth import Coefficients, Schedule, Trace, get_solver, integrate, join
from jaxode.model.block import BLOCKS, Block, Context, FieldArgs, block_field, fold, sublayer_fields
from jaxode.model.cost import plan, resolve
from jaxode.model.loop import Pass, Start, has_rules
from jaxode.model.rounding import rounded_copies
from jaxode.model.steps import StepsOverDepth
from jaxode.types import LoopState, State


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class StackOutput:
    """The state after the stack, the solver that ran, and the looped part's trajectory when asked for."""

    state: State
    block_evaluations: Any
    solver: str = struct.field(pytree_node=False)
    trace: Trace | None = None


@dataclass(frozen=True)
class Group:
    """One solve of the looped part: a field on its own interval of depth-time."""

    field: Any
    """f(t, x, args), or its sublayers for solver "lie"."""
    args: FieldArgs
    schedule: Schedule
    coefficients: Coefficients | None
    """The group's own rows, for solver "calibrated"."""
    blocks: int
    """Applications of a block in one evaluation of the field."""


class Stack(nnx.Module):
    """prelude blocks once each -> looped part over [0, N] -> coda blocks once each.

    full: one block's field on [0, N]. sequence: G fields, each on its own N/G. cycle: one field, a pass through
    all G blocks, on [0, N/G]. none: N blocks once each, without a solver. With `inner_blocks` = k each block of these
    is k blocks, passed one after the other. What else a pass of "full" or "cycle" does, and where its state begins,
    `model.loop` says.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Blocks are stored once each, whatever the number of applications.

        Raises:
            UserError: an unknown `model.block`.
        """
        make = BLOCKS.find(config.block)

        def blocks(first: int, count: int, conditioned: bool = False) -> Any:
            places = range(first, first + count)
            return nnx.List([make(config, rngs=rngs, dtype=dtype, conditioned=conditioned, index=i) for i in places])

        self.config = config
        looped, coda = config.prelude, config.prelude + config.distinct_blocks
        self.prelude, self.looped, self.coda = (
            blocks(0, config.prelude),
            blocks(looped, config.distinct_blocks, config.conditioning != "none"),
            blocks(coda, config.coda),
        )
        self.loop = Pass(config, rngs=rngs, dtype=dtype) if has_rules(config) else None
        self.start = Start(config)
        self.exit_norm: Any = nnx.data(None)
        """Before the coda: the head's own, which a model shares with its stack (`model.loop.exit_norm`)."""
        self.exit_gate = nnx.Linear(config.width, 1, rngs=rngs) if config.loop.exit_gate else None

    def __call__(
        self,
        x: State,
        depth: DepthConfig,
        context: Context,
        *,
        coefficients: Coefficients | None = None,
        trace: bool = False,
    ) -> StackOutput:
        """Integrate x over depth as `depth` says; solvers "calibrated" and "auto" take the coefficients.

        Raises:
            UserError: steps, solver or schedule that do not fit the layout.
        """
        steps = self.config.steps if depth.steps is None else depth.steps
        depth = resolve(self.config, depth, () if coefficients is None else (steps,))
        # a memory cannot leave a loop
        adjoint = depth.adjoint if context.memory is None else "unroll"
        x, context = self.begin(x, depth, context)
        groups = self.groups(depth, context, coefficients)
        evaluations: Any = self.config.prelude + self.config.coda
        traces: list[Trace] = []
        if self.config.sharing == "none":
            x = self._once(self.looped, x, context, offset=0)
            evaluations += len(self.looped)
        for group in groups:
            solve = integrate(
                group.field,
                x,
                group.schedule,
                depth.solver,
                args=group.args,
                coefficients=group.coefficients,
                adjoint=adjoint,
                trace=trace,
                tolerance=depth.tolerance,
            )
            x, evaluations = solve.state, evaluations + solve.evaluations * group.blocks
            traces += [solve.trace] if solve.trace is not None else []
        return StackOutput(self.leave(x, context), evaluations, depth.solver, join(traces) if traces else None)

    def begin(self, x: State, depth: DepthConfig, context: Context) -> tuple[LoopState, Context]:
        """From the embedding to the state at t = 0, and the context of the looped part: it holds what is injected."""
        entered = self.enter(x, context)
        if self.config.loop.injection != "none":
            context = dataclasses.replace(context, x0=entered)
        x = self.start(entered, context.places, depth.start_seed, depth.start == "zeros")
        streams = None if self.loop is None else self.loop.streams
        return x if streams is None else streams.enter(x), context

    def enter(self, x: State, context: Context) -> State:
        """Through the prelude."""
        return self._once(self.prelude, x, context, offset=-1)

    def observed(self, x: LoopState) -> State:
        """What of several streams is read at the end."""
        streams = None if self.loop is None else self.loop.streams
        return x[..., : self.config.width] if streams is None else streams.leave(x)

    def leave(self, x: LoopState, context: Context) -> State:
        """Through the coda: what the head reads, from a state at any depth."""
        return self.through_coda(self.observed(x), context)

    def through_coda(self, x: State, context: Context) -> State:
        """The same from the one stream that is read."""
        if self.exit_norm is not None:
            x = self.exit_norm(x).astype(x.dtype)
        return self._once(self.coda, x, context, offset=1)

    def groups(self, depth: DepthConfig, context: Context, coefficients: Coefficients | None) -> tuple[Group, ...]:
        """The solves of the looped part, in order; none for unshared blocks. `depth` names its solver.

        Raises:
            UserError: steps, solver or schedule that do not fit the layout.
        """
        schedules = plan(self.config, depth)
        size = len(self.looped) if self.config.sharing in ("full", "cycle") else self.config.inner_blocks
        members = [tuple(self.looped[i : i + size]) for i in range(0, len(self.looped), size)]
        split = get_solver(depth.solver).split
        groups, start = [], 0
        # no schedules, no groups: unshared blocks
        for index, (blocks, schedule) in enumerate(zip(members, schedules, strict=False)):
            scale = self.config.step_size
            field, params = sublayer_fields(blocks, scale) if split else block_field(blocks, scale, self.loop)
            # a group's field is its own: the memory starts anew
            rows = jax.tree.map(lambda rows, i=start, n=schedule.steps: rows[i : i + n], coefficients)
            start += schedule.steps
            told = self.config.conditioning != "none" or (rows is not None and rows.gains is not None)
            args = FieldArgs(
                params,
                fold(context, index),
                StepsOverDepth.over(schedule, rows) if told else None,
                tuple(rounded_copies(block) for block in blocks),
            )
            groups.append(Group(field, args, schedule, rows, len(self.config.pass_blocks)))
        return tuple(groups)

    @staticmethod
    def _once(blocks: Sequence[Block], x: State, context: Context, offset: int) -> State:
        for index, block in enumerate(blocks):
            x = x + block.increment(float(index), x, fold(context, 1000 * (offset + 2) + index))
        return x
