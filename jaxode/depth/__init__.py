"""Depth as time: schedules, solvers and `integrate`. Knows no transformer."""

from jaxode.depth.budgets import RowMultistep, Tables, stack_tables
from jaxode.depth.draws import draw_sizes
from jaxode.depth.integrate import KEPT, Solve, field_evaluations, integrate
from jaxode.depth.multistep import Coefficients, Multistep, adams_bashforth, combine, secant
from jaxode.depth.rules import Acceleration, StateChange, StepError, by_granularity, check_rule, sequence_mean
from jaxode.depth.schedules import Schedule, make_schedule
from jaxode.depth.solvers import SOLVERS, LieSplitting, get_solver
from jaxode.depth.stepping import Step, StepLimit, Stepped, StopRule, step_budgets, step_until
from jaxode.depth.trace import Trace, join, measure

__all__ = [
    "KEPT",
    "SOLVERS",
    "Acceleration",
    "Coefficients",
    "LieSplitting",
    "Multistep",
    "RowMultistep",
    "Schedule",
    "Solve",
    "StateChange",
    "Step",
    "StepError",
    "StepLimit",
    "Stepped",
    "StopRule",
    "Tables",
    "Trace",
    "adams_bashforth",
    "by_granularity",
    "check_rule",
    "combine",
    "draw_sizes",
    "field_evaluations",
    "get_solver",
    "integrate",
    "join",
    "make_schedule",
    "measure",
    "secant",
    "sequence_mean",
    "stack_tables",
    "step_budgets",
    "step_until",
]
