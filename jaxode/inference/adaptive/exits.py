"""Exit rules that read what the model says after every step: its predictions, or its own exit gate."""

from __future__ import annotations

from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

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
class Patience:
    """Exit where the likeliest label has stayed the same `threshold` times in a row, from one step to the next.

    Source: PABEE, Zhou et al. 2020 (arXiv 2006.04152, section 3.2), whose patience this is. Their classifiers inside
    are trained each for its layer; here the model's own head reads every state.

    Attributes:
        threshold: agreements in a row; 0 exits after the first step, one of N or more never.
        granularity: "token", or "sequence": all of its tokens have to agree.
        kind: its name, which it gives itself; see `check_rule`.
    """

    threshold: Any
    granularity: str = struct.field(pytree_node=False, default="token")
    kind: str = struct.field(pytree_node=False, default="")
    observes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rule(self)

    def start(self, x0: Any, observed: Any) -> tuple[Int[Array, " *row"], Int[Array, " *rows"]]:
        """No label yet, and no agreement."""
        labels = jnp.full(observed.shape[:-1], -1, jnp.int32)
        return labels, jnp.zeros(labels.shape[:1] if self.granularity == "sequence" else labels.shape, jnp.int32)

    def __call__(self, step: Step, carry: tuple[Any, Any]) -> tuple[Bool[Array, " *rows"], tuple[Any, Any]]:
        """True where as many agreements stand in a row."""
        before, agreed = carry
        labels = jnp.argmax(step.observed, axis=-1).astype(jnp.int32)
        same = labels == before
        if self.granularity == "sequence" and same.ndim > 1:
            padding = False if step.weights is None else step.weights == 0
            same = jnp.all(same | padding, axis=tuple(range(1, same.ndim)))
        agreed = jnp.where(same, agreed + 1, 0)
        return agreed >= self.threshold, (labels, agreed)


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
