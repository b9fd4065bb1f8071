"""Linear multistep solvers: one field evaluation a step, and a memory of the evaluations before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, no_type_check

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Coefficients:
    """What a multistep method does in each of its n steps; arrays that may be traced and differentiated.

    Attributes:
        weights: [n, K], w_ij weighs the evaluation of step i - j in step i.
        down: [n, K, D, R] or None, the first half of a low-rank correction.
        up: [n, R, D] or None, its second half.
        gains: anything with leading axis n that the *field* takes, the step that begins at t reading its row; the
            solver leaves it alone.
        starts: [n] or None, the time at which each step asks the field, in place of the schedule's; so a compiled
            solve takes any times.
    """

    weights: Float[Array | np.ndarray, "N K"]
    down: Float[Array | np.ndarray, "N K D R"] | None = None
    up: Float[Array | np.ndarray, "N R D"] | None = None
    gains: Any = None
    starts: Float[Array | np.ndarray, " N"] | None = None

    @property
    def steps(self) -> int:
        """The number of steps, n."""
        return self.weights.shape[0]

    @property
    def memory(self) -> int:
        """K, evaluations that a step reads."""
        return self.weights.shape[1]


class Multistep(diffrax.AbstractSolver):
    """x_{i+1} = x_i + sum_j (w_ij f_{i-j} + (f_{i-j} P_ij) Q_i), j = 0 .. K-1, with f_m = 0 before the first step.

    The weights hold the step sizes; only the field reads the times. Row i belongs to step i, so a solve takes at most n
    steps. P and Q (`down` and `up`) correct what a weight cannot: they turn the increment, in R directions of the D.
    Source of the first sum: Hairer, Norsett & Wanner 1993, section III.1, with weights that differ from step to step.
    """

    coefficients: Coefficients
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """0: given coefficients promise nothing as the steps shrink."""
        return 0

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Step 0, nothing remembered."""
        return jnp.zeros((), jnp.int32), (jnp.zeros_like(y0),) * (self.coefficients.memory - 1)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        """Advance from t0 to t1 by the row of this step."""
        index, memory = solver_state
        own = self.coefficients
        at = t0 if own.starts is None else jnp.asarray(own.starts)[index]
        fields = (terms.vf(at, y0, args), *memory)
        y1 = combine(own, index, y0, fields)
        return y1, None, {"y0": y0, "y1": y1}, (index + 1, fields[:-1]), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The field at one point."""
        return terms.vf(t0, y0, args)

    def remembering(self) -> Multistep:
        """The same method, with a memory of at least the newest evaluation."""
        own = self.coefficients
        if own.memory > 1:
            return self
        pad = [(0, 0), (0, 1)]
        down = None if own.down is None else jnp.pad(own.down, [*pad, (0, 0), (0, 0)])
        return Multistep(dataclasses.replace(own, weights=jnp.pad(own.weights, pad), down=down))

    def euler_part(self, solver_state: Any) -> Any:
        """(sum_j w_ij) f_i of the step that left this state: the rest of its increment came from memory."""
        index, memory = solver_state
        row = jnp.asarray(self.coefficients.weights, memory[0].dtype)[index - 1]
        return jnp.sum(row) * memory[0]


def combine(coefficients: Coefficients, index: Any, y: Any, fields: Sequence[Any]) -> Any:
    """Y + sum_j (w_ij fields_j + (fields_j P_ij) Q_i), the coefficients of row i."""
    down, up = coefficients.down, coefficients.up
    for weight, field in zip(jnp.asarray(coefficients.weights, y.dtype)[index], fields, strict=True):
        y = y + weight * field
    if down is not None and up is not None:
        down, up = (jnp.asarray(half, y.dtype)[index] for half in (down, up))
        # 2-D matmuls, as everywhere
        flat = [field.reshape(-1, field.shape[-1]) for field in fields]
        inner = sum(field @ half for field, half in zip(flat, down, strict=True))
        y = y + (inner @ up).reshape(y.shape)
    return y


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


def secant(sizes: Sequence[float] | Float[Array, " N"], gain: float = 2.0) -> Any:
    """[n, 2]: h f_i + c (f_i - f_{i-1}), c = gain (h - 1) h / (2 h'), with h' the size of the step before.

    A trained network is a sum of unit increments, not an integral: a step of h stands for h of them. Where the
    increment changes linearly along depth their sum is the formula with gain 1. On even steps gain 2 makes c = h - 1.
    At h = 1 the memory vanishes and the step is the trained network's own. A JAX array of sizes may be traced.
    """
    own = jnp if isinstance(sizes, jax.Array) else np
    h = own.asarray(sizes)
    # nothing is remembered in the first step
    memory = own.concatenate([0 * h[:1], gain * (h[1:] - 1) * h[1:] / (2 * h[:-1])])
    return own.stack([h + memory, -memory], axis=1)
