"""Depth as time: schedules, solvers and `integrate`. Knows no transformer."""

from jaxode.depth.integrate import KEPT, Solve, field_evaluations, integrate
from jaxode.depth.multistep import Coefficients, Multistep, adams_bashforth, secant
from jaxode.depth.schedules import Schedule, make_schedule
from jaxode.depth.solvers import SOLVERS, LieSplitting, get_solver
from jaxode.depth.trace import Trace, join, measure

__all__ = [
    "KEPT",
    "SOLVERS",
    "Coefficients",
    "LieSplitting",
    "Multistep",
    "Schedule",
    "Solve",
    "Trace",
    "adams_bashforth",
    "field_evaluations",
    "get_solver",
    "integrate",
    "join",
    "make_schedule",
    "measure",
    "secant",
]
