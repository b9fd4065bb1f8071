"""Rules that stop a row by its states alone: no read-out, no evaluation of the field."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jaxode.config import require
from jaxode.depth.stepping import Step

GRANULARITIES = ("sequence", "token")


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class StepError:
    """Stop where the free error estimate falls below the threshold: ||e_i|| / ||x_{i+1}|| < threshold.

    The estimate is `Stepped.error`; from the second step on. Embedded estimates in this sense: Hairer, Norsett & Wanner
    1993, section II.4.

    Attributes:
        threshold: relative to the state's norm; 0 never stops, inf stops after the second step.
        granularity: "token", or "sequence" by the mean over its positions.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_rule(self)

    def start(self, x0: Any, observed: Any) -> None:
        """Nothing is carried."""

    def __call__(self, step: Step, carry: None) -> tuple[Bool[Array, " *rows"], None]:
        """True where the estimate is below the threshold."""
        return (by_granularity(self, step.error, step) < self.threshold) & (step.index > 0), None


@no_type_check
@struct.dataclass
class Acceleration:
    """Stop where the second difference of the states is small: ||d_i - d_{i-1}|| < threshold, `hits` times in a row.

    d_i = x_{i+1} - x_i. Source: Pappone et al. 2025 (two hits, not normalised).

    Attributes:
        threshold: in the state's unit, or without unit where normalised; 0 never stops.
        granularity: "token", or "sequence" by the mean over its positions.
        normalised: divide by ||d_i|| + ||d_{i-1}||: from 0 (the same increment again) to 1 (the opposite one).
        hits: steps in a row that must be below.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    normalised: bool = struct.field(pytree_node=False, default=True)
    hits: int = struct.field(pytree_node=False, default=2)
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_rule(self)
        require(self.hits >= 1, f"Acceleration: hits = {self.hits}: must be at least 1")

    def start(self, x0: Any, observed: Any) -> Int[Array, " *rows"]:
        """Hits so far."""
        return jnp.zeros(x0.shape[:1] if self.granularity == "sequence" else x0.shape[:-1], jnp.int32)

    def __call__(self, step: Step, carry: Int[Array, " *rows"]) -> tuple[Bool[Array, " *rows"], Int[Array, " *rows"]]:
        """True at the last hit."""
        size = _norm(step.increment - step.previous)
        if self.normalised:
            size = size / jnp.maximum(_norm(step.increment) + _norm(step.previous), 1e-12)
        below = (by_granularity(self, size, step) < self.threshold) & (step.index > 0)
        carry = jnp.where(below, carry + 1, 0)
        return carry >= self.hits, carry


@no_type_check
@struct.dataclass
class StateChange:
    """Stop where a step hardly moves the state: ||z_{i+1} - z_i|| / ||z_{i+1}|| < threshold.

    z_i is x_i, or with a landing where the row would end if it stopped there, which says more. Source: the
    latent-difference exit of Geiping et al. 2025, whose own threshold for Huginn is 0.03 (from their released code).

    Attributes:
        threshold: relative to the state's norm; 0 never stops, inf stops after the first step.
        granularity: "token", or "sequence" by the mean over its positions.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_rule(self)

    def start(self, x0: Float[Array, " *shape"], observed: Any) -> Float[Array, " *shape"]:
        """z_0 = x_0."""
        return x0

    def __call__(
        self, step: Step, carry: Float[Array, " *shape"]
    ) -> tuple[Bool[Array, " *rows"], Float[Array, " *shape"]]:
        """True where the relative change is below the threshold."""
        change = _norm(step.landed - carry) / jnp.maximum(_norm(step.landed), 1e-12)
        return by_granularity(self, change, step) < self.threshold, step.landed


def by_granularity(rule: Any, signal: Float[Array, " *row"], step: Step) -> Float[Array, " *rows"]:
    """The signal by the rule's granularity: as it is, or its weighted mean over the positions of a sequence."""
    if rule.granularity == "token":
        return signal
    return sequence_mean(signal, step.weights)


def sequence_mean(signal: Float[Array, " B *row"], weights: Float[Array, " B *row"] | None) -> Float[Array, " B"]:
    """Mean over all axes but the first; weighted where weights are given."""
    axes = tuple(range(1, signal.ndim))
    if weights is None:
        return jnp.mean(signal, axis=axes)
    return jnp.sum(signal * weights, axis=axes) / jnp.maximum(jnp.sum(weights, axis=axes), 1e-12)


def check_rule(rule: Any, most: float = math.inf) -> None:
    """Refuse a threshold outside [0, most], an unknown granularity or another `kind`; a traced threshold passes.

    A rule holds its own name as a static field because JAX compares pytrees that are dataclasses by their fields alone:
    two rules with the same ones would be equal, and where their hashes meet, one would run the other's program.

    Raises:
        UserError: naming the rule, the field and what is allowed.
    """
    name, module = type(rule).__name__, type(rule).__module__
    # two files may call their rules alike
    kind = name if module.startswith("jaxode.") else f"{module}.{name}"
    threshold = rule.threshold
    require(rule.kind in ("", kind), f'{name}: kind = "{rule.kind}": is the name of the rule; leave it out')
    object.__setattr__(rule, "kind", kind)
    require(
        rule.granularity in GRANULARITIES,
        f'{name}: granularity = "{rule.granularity}": allowed are {", ".join(GRANULARITIES)}',
    )
    # JAX rebuilds a rule with leaves of any kind, which are not to be judged
    if not _is_number(threshold):
        return
    require(np.ndim(threshold) == 0, f"{name}: threshold of shape {list(np.shape(threshold))}: must be one number")
    allowed = "at least 0" if most == math.inf else f"from 0 to {most:g}"
    require(0 <= float(threshold) <= most, f"{name}: threshold = {float(threshold):g}: must be {allowed}")


def _norm(x: Float[Array, "*row D"]) -> Float[Array, " *row"]:
    return jnp.linalg.norm(x, axis=-1)


def _is_number(x: Any) -> bool:
    return isinstance(x, Real | np.ndarray | jax.Array) and not isinstance(x, Tracer)
