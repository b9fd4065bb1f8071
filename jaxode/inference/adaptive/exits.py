"""Exit rules that read what the model says after every step: its predictions, or its own exit gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxode.config import UserError, require
from jaxode.config.named_numbers import named_numbers
from jaxode.depth import Acceleration, StateChange, Step, StepError, StopRule, by_granularity, check_rule
from jaxode.plugins import Table


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


Maker = Callable[..., Any]
"""From a threshold to a `StopRule`."""
FIELDS = {"threshold", "granularity", "kind"}


def _fit(name: str, part: Any) -> Maker:
    """A plug-in's: a class as those above are."""
    make: Any = part
    require(
        isinstance(part, type) and dataclasses.is_dataclass(part) and hasattr(part, "replace"),
        f"{part!r}: must be a class under @flax.struct.dataclass, as jaxode.StateChange is",
    )
    lacking = sorted(FIELDS - {field.name for field in dataclasses.fields(part)})
    lacking += [method for method in ("start", "observes") if not hasattr(part, method)]
    lacking += [] if any("__call__" in vars(base) for base in part.__mro__) else ["__call__"]
    require(not lacking, f"{part.__name__} lacks {', '.join(lacking)}; jaxode.StateChange shows what a rule has")
    try:
        rule = make(0.5)
    except TypeError as error:
        raise UserError(f"{part.__name__}(0.5) must give the rule with that threshold ({error})") from None
    require(
        bool(rule.kind),
        f"{part.__name__}: its kind is empty, which would let it run another rule's program: call check_rule(self) of "
        "jaxode.depth in __post_init__",
    )
    return make


EXIT_RULES = Table[Maker](
    "exit_rule",
    "exit_rule",
    {
        "step_error": StepError,
        "acceleration": Acceleration,
        "state_change": StateChange,
        "divergence": Divergence,
        "confidence": Confidence,
        "patience": Patience,
        "exit_gate": ExitGate,
    },
    _fit,
)
"""By name."""


def make_rule(text: str) -> StopRule:
    """The rule of a name with its threshold, "state_change:0.03".

    Raises:
        UserError: an unknown name, a threshold that is missing or out of range, or several rules.
    """
    pairs = named_numbers("exit_rule", text, "state_change:0.03")
    require(
        len(pairs) == 1 and pairs[0][1] is not None,
        f'exit_rule = "{text}": must be one rule with its threshold, such as "state_change:0.03"',
    )
    ((name, threshold),) = pairs
    return EXIT_RULES.find(name, text)(threshold)
