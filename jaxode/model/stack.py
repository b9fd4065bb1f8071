"""The stack of blocks: unshared prelude, the looped part solved over depth, unshared coda."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.typing import DTypeLike

from jaxode.config import DepthConfig, ModelConfig
from jaxode.depth import Coefficients, Schedule, Solve, Trace, get_solver, integrate, join
from jaxode.model.block import Block, Context, FieldArgs, block_field, fold, sublayer_fields
from jaxode.model.cost import plan
from jaxode.types import State


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class StackOutput:
    """The state after the stack, and the looped part's trajectory when asked for."""

    state: State
    block_evaluations: Any
    trace: Trace | None = None


class Stack(nnx.Module):
    """prelude blocks once each -> looped part over [0, N] -> coda blocks once each.

    full: one block's field on [0, N]. sequence: G fields, each on its own N/G. cycle: one field, a pass through
    all G blocks, on [0, N/G]. none: N blocks once each, without a solver. With `inner_blocks` = k each block of these
    is k blocks, passed one after the other.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """Blocks are stored once each, whatever the number of applications."""

        def blocks(count: int) -> Any:
            return nnx.List([Block(config, rngs=rngs, dtype=dtype) for _ in range(count)])

        self.config = config
        self.prelude, self.looped, self.coda = (
            blocks(config.prelude),
            blocks(config.distinct_blocks),
            blocks(config.coda),
        )

    def __call__(
        self,
        x: State,
        depth: DepthConfig,
        context: Context,
        *,
        coefficients: Coefficients | None = None,
        trace: bool = False,
    ) -> StackOutput:
        """Integrate x over depth as `depth` says, solver "calibrated" by these coefficients.

        Raises:
            UserError: steps, solver or schedule that do not fit the layout.
        """
        schedules = plan(self.config, depth)
        x = self._once(self.prelude, x, context, offset=-1)
        evaluations: Any = self.config.prelude + self.config.coda
        traces: list[Trace] = []
        if self.config.sharing == "none":
            x = self._once(self.looped, x, context, offset=0)
            evaluations += len(self.looped)
        else:
            size = len(self.looped) if self.config.sharing == "cycle" else self.config.inner_blocks
            groups = [tuple(self.looped[i : i + size]) for i in range(0, len(self.looped), size)]
            start = 0
            for index, (blocks, schedule) in enumerate(zip(groups, schedules, strict=True)):
                # a group's field is its own: the memory starts anew
                part = jax.tree.map(lambda rows, i=start, n=schedule.steps: rows[i : i + n], coefficients)
                start += schedule.steps
                solve = self._solve(blocks, x, schedule, depth, part, fold(context, index), trace)
                x, evaluations = solve.state, evaluations + solve.evaluations * len(blocks)
                traces += [solve.trace] if solve.trace is not None else []
        x = self._once(self.coda, x, context, offset=1)
        return StackOutput(x, evaluations, join(traces) if traces else None)

    def _solve(
        self,
        blocks: tuple[Block, ...],
        x: State,
        schedule: Schedule,
        depth: DepthConfig,
        coefficients: Coefficients | None,
        context: Context,
        trace: bool,
    ) -> Solve:
        field, params = (sublayer_fields if get_solver(depth.solver).split else block_field)(blocks)
        return integrate(
            field,
            x,
            schedule,
            depth.solver,
            args=FieldArgs(params, context),
            coefficients=coefficients,
            adjoint=depth.adjoint,
            trace=trace,
            tolerance=depth.tolerance,
        )

    @staticmethod
    def _once(blocks: Sequence[Block], x: State, context: Context, offset: int) -> State:
        for index, block in enumerate(blocks):
            x = x + block.increment(float(index), x, fold(context, 1000 * (offset + 2) + index))
        return x
