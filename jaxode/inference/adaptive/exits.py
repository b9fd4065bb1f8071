"""Exit rules that read what the model says after every step: its predictions, or its own exit gate."""

from __future__ import annotations

from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxode.depth import Step, by_granularity, check_rule


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Divergence:
    """Exit where a step hardly moves the prediction: KL(p_i || p_{i+1}) < threshold, p from the read-out of x_i.

    Before the first step p is uniform. Source: Geiping et al. 2025, whose own threshold for Huginn is 5e-4 (from their
    released code).

    Attributes:
        threshold: nats; 0 never exits, inf exits after the first step.
        granularity: "token", or "sequence" by the mean over its positions.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rule(self)

    def start(self, x0: Any, observed: Any) -> Float[Array, " *out"]:
        """Logarithm of the uniform distribution."""
        return jnp.full(observed.shape, -jnp.log(observed.shape[-1]), jnp.float32)

    def __call__(self, step: Step, carry: Float[Array, " *out"]) -> tuple[Bool[Array, " *rows"], Float[Array, " *out"]]:
        """True where the divergence is below the threshold."""
        found = jax.nn.log_softmax(step.observed)
        divergence = jnp.sum(jnp.exp(carry) * (carry - found), axis=-1)
        return _exits(self, divergence, step, below=True), found


@no_type_check
@struct.dataclass
class Confidence:
    """Exit where the prediction is sure enough: max p > threshold, p from the read-out of x_{i+1}.

    Source: confidence-based early exits, Schuster et al. 2022 (CALM).

    Attributes:
        threshold: a probability; 1 never exits, 0 exits after the first step.
        granularity: "token", or "sequence" by the mean over its positions.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rule(self, most=1.0)

    def start(self, x0: Any, observed: Any) -> None:
        """Nothing is carried."""

    def __call__(self, step: Step, carry: None) -> tuple[Bool[Array, " *rows"], None]:
        """True where the largest probability is above the threshold."""
        return _exits(self, jnp.max(jax.nn.softmax(step.observed), axis=-1), step, below=False), None


@no_type_check
@struct.dataclass
class ExitGate:
    """Exit where the model's own gate says so: p_1 + .. + p_i >= threshold, after step i.

    p_i = l_i (1 - l_1) .. (1 - l_{i-1}) with l_i = sigmoid(w x_i + b), of a model with `model.loop.exit_gate`; the last
    step takes what is left, so a row that has not left before ends there. Source: Ouro, ByteDance 2025 (arXiv
    2510.25741), whose `early_exit_threshold` this is; `jaxode.exit_probabilities` gives the p_i.

    Attributes:
        threshold: a probability; 1 hardly ever exits before the end, 0 exits after the first step.
        granularity: "token", or "sequence" by the mean over its positions.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rule(self, most=1.0)

    def start(self, x0: Any, observed: Any) -> Float[Array, " *row"]:
        """The probability of going on so far."""
        return jnp.ones(observed.shape, jnp.float32)

    def __call__(self, step: Step, carry: Float[Array, " *row"]) -> tuple[Bool[Array, " *rows"], Float[Array, " *row"]]:
        """True where the probabilities so far reach the threshold."""
        left = carry * (1.0 - step.observed)
        return by_granularity(self, 1.0 - left, step) >= self.threshold, left


def _exits(rule: Any, signal: Float[Array, " *row"], step: Step, *, below: bool) -> Bool[Array, " *rows"]:
    # a classifier's signal is one number a sequence already
    signal = signal if signal.ndim == 1 else by_granularity(rule, signal, step)
    return signal < rule.threshold if below else signal > rule.threshold
