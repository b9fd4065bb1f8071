"""Linear multistep solvers: one field evaluation a step, and a memory of the evaluations before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Multistep(diffrax.AbstractSolver):
    """x_{i+1} = x_i + sum_j b_ij f_{i-j}, j = 0 .. K-1, with f_m = f(t_m, x_m), and f_m = 0 before the first step.

    The coefficients hold the step sizes; only the field reads the times. Row i belongs to step i, so a solve takes at
    most n steps. With a third axis the coefficients differ by channel. Source: Hairer, Norsett & Wanner 1993, section
    III.1, with coefficients that may differ from step to step.
    """

    coefficients: Float[Array | np.ndarray, "N K *D"]
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """0: given coefficients promise nothing as the steps shrink."""
        return 0

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Step 0, nothing remembered."""
        return jnp.zeros((), jnp.int32), (jnp.zeros_like(y0),) * (self.coefficients.shape[1] - 1)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Advance from t0 to t1 by the row of this step."""
        index, memory = solver_state
        fields = (terms.vf(t0, y0, args), *memory)
        row = jnp.asarray(self.coefficients, y0.dtype)[index]
        y1 = y0
        for weight, field in zip(row, fields, strict=True):
            y1 = y1 + weight * field
        return y1, None, {"y0": y0, "y1": y1}, (index + 1, fields[:-1]), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The field at one point."""
        return terms.vf(t0, y0, args)


def euler(sizes: Sequence[float]) -> np.ndarray:
    """[n, 1]: b_i0 = h_i."""
    return np.asarray(sizes, np.float64)[:, None]


def adams_bashforth(sizes: Sequence[float], order: int) -> np.ndarray:
    """[n, order]: integrate over each step the polynomial through the last `order` evaluations, whatever the sizes.

    The first steps have fewer evaluations behind them and take a lower order: Euler, then order 2, and so on.
    Source: Hairer, Norsett & Wanner 1993, section III.5.
    """
    times = np.concatenate([[0.0], np.cumsum(sizes)])
    table = np.zeros((len(sizes), order))
    for i, size in enumerate(sizes):
        nodes = times[max(0, i - order + 1) : i + 1][::-1] - times[i]
        for j, node in enumerate(nodes):
            others = np.delete(nodes, j)
            antiderivative = np.poly1d(np.poly(others) / np.prod(node - others)).integ()
            table[i, j] = antiderivative(size) - antiderivative(0.0)
    return table


def secant(sizes: Sequence[float], gain: float = 2.0) -> np.ndarray:
    """[n, 2]: h f_i + c (f_i - f_{i-1}), c = gain (h - 1) h / (2 h'), with h' the size of the step before.

    A trained network is a sum of unit increments, not an integral: a step of h stands for h of them. Where the
    increment changes linearly along depth their sum is the formula with gain 1. On even steps gain 2 makes c = h - 1.
    At h = 1 the memory vanishes and the step is the trained network's own.
    """
    table = np.zeros((len(sizes), 2))
    for i, size in enumerate(sizes):
        table[i, 0] = size
        if i:
            memory = gain * (size - 1) * size / (2 * sizes[i - 1])
            table[i] += memory, -memory
    return table
