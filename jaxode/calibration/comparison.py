"""The full solve of a text, and what a short solve makes of it: compiled functions of the coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxode.config import DepthConfig, require
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.evaluation.loss import LossSums, batch_inputs, kl_divergence, token_loss
from jaxode.model import Encoder, SequenceClassifier, TokenClassifier
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Scalar


@dataclass(frozen=True)
class Reference:
    """The full solve of one batch."""

    batch: Batch
    real: Bool[np.ndarray, "B L"]
    """Positions that hold text, not padding."""
    trajectory: Float[np.ndarray, "N_plus_1 rows D"] | None
    """Of these positions, where it was asked for."""
    target: Float[Array, "B choices numbers"]
    """The states that an encoder ends in, or the numbers of a regression; or log probabilities of every choice, in half
    precision: every batch of a fit holds its own."""
    nats: float
    tokens: float

    @property
    def states(self) -> Float[np.ndarray, "N_plus_1 rows D"]:
        """The trajectory, for those who follow it."""
        assert self.trajectory is not None  # whoever solved the batch was told to keep it
        return self.trajectory


@dataclass(frozen=True)
class Distance:
    """A short solve against the full one, summed over the predicted tokens of a batch, or all tokens of an encoder."""

    gap: float
    """KL(full || short), nats; of an encoder, the squared error over the variance of the full solve's states; of a
    regression, that of its numbers (of several, their mean) in their unit."""
    rise: float
    """Of the loss, nats; of an encoder and a regression, the gap again."""
    tokens: float


class Comparison:
    """A model at full depth beside its solve in `steps` calibrated steps.

    A language model is compared token by token. A classifier is compared sequence by sequence, one of several labels
    label by label (yes against no); for want of labels its loss is that of the classes which the full depth finds
    likeliest. An encoder, and a classifier of tokens, is compared by the states that it ends in, a regression by its
    numbers.

    Raises:
        UserError: a batch without a token to predict, or weights with which the full solve is not finite.
    """

    def __init__(self, architecture: Architecture, params: Parameters, steps: int, document_mask: bool):
        """Compile on first use; the coefficients stay arguments."""
        self._params = params
        model = architecture.bind(params)
        self._classifies, self._encodes = (
            isinstance(model, SequenceClassifier),
            isinstance(model, Encoder | TokenClassifier),
        )
        self._problem_type = getattr(model, "problem_type", None)
        self._regresses = self._problem_type == "regression"
        # who pools, or is compared state by state, has to know where padding begins
        kind = "masked" if self._classifies or self._encodes else model.config.kind
        short_depth = DepthConfig(steps=steps, solver="calibrated", adjoint="remat")

        def run(params: Parameters, batch: Batch, depth: DepthConfig, coefficients: Any, trace: bool) -> Any:
            inputs = batch_inputs(batch, kind, document_mask)
            model = architecture.bind(params)
            return model(jnp.asarray(batch.tokens), depth, **inputs, coefficients=coefficients, trace=trace)

        def full(params: Parameters, batch: Batch) -> tuple[Any, Any, LossSums]:
            out = run(params, batch, DepthConfig(solver="euler"), None, True)
            found = self._compared(out)
            as_it_is = self._encodes or self._regresses
            target = found if as_it_is else jax.nn.log_softmax(found).astype(jnp.float16)
            return out.trace.states, target, self._judged(found, batch, target)[1]

        def short(params: Parameters, coefficients: Coefficients, batch: Batch, target: Any) -> tuple[Scalar, LossSums]:
            found = self._compared(run(params, batch, short_depth, coefficients, False))
            gap, loss = self._judged(found, batch, target)
            return gap / loss.tokens, loss

        self._full = jax.jit(full)
        self._short = jax.jit(short)
        self._states = jax.jit(lambda params, c, batch: run(params, batch, short_depth, c, True).trace.states)
        self._gradient = jax.jit(jax.grad(lambda c, params, batch, target: short(params, c, batch, target)[0]))

    @property
    def gap(self) -> str:
        """What separates two solves."""
        return "squared error" if self._encodes or self._regresses else "KL"

    @property
    def unit(self) -> str:
        """What it is the mean over."""
        return "sequence" if self._classifies else "token"

    def measured(self, gap: float, rise: float) -> dict[str, Any]:
        """What `Calibration` calls a mean gap and rise."""
        if self._encodes:
            return {"error": math.sqrt(gap)}
        return {"distance": math.sqrt(gap)} if self._regresses else {"kl": gap, "rise": rise}

    def _compared(self, out: Any) -> Any:
        """[B choices numbers]: an encoder's states, or logits.

        Of a classifier, one choice among its labels, or no against yes for each of several; of a regression its
        numbers.
        """
        if self._encodes:
            return out.state
        logits = out.logits
        if self._problem_type == "multi_label_classification":
            # softmax(0, z) is (1 - sigmoid(z), sigmoid(z))
            return jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
        return logits[:, None] if self._classifies else logits

    def _judged(self, found: Any, batch: Batch, reference: Any) -> tuple[Scalar, LossSums]:
        """The gap between what was found and the reference, and the loss, summed over what is predicted."""
        if self._encodes:
            gap, tokens = squared_error(reference, found, jnp.asarray(batch.segments) > 0)
            return gap, LossSums(gap, tokens)
        logits = found
        targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
        if self._classifies:
            real = jnp.any(jnp.asarray(batch.segments) > 0, axis=1, keepdims=True)
            weights = jnp.broadcast_to(real, logits.shape[:-1]).astype(jnp.float32)
            if self._regresses:
                gap = jnp.sum(weights * jnp.mean(jnp.square(logits - reference), axis=-1))
                return gap, LossSums(gap, jnp.sum(weights))
            targets = jnp.argmax(reference, axis=-1)
        return kl_divergence(reference, logits, weights), token_loss(logits, targets, weights)

    def reference(self, batch: Batch, trajectory: bool = True) -> Reference:
        """Solve a batch at full depth, and keep its trajectory or what it leads to alone."""
        require(
            bool(np.any(np.asarray(batch.segments if self._classifies or self._encodes else batch.weights) > 0)),
            "a batch of the calibration text holds no token to predict: leave it out",
        )
        states, target, loss = self._full(self._params, batch)
        require(
            bool(np.isfinite(loss.nats)),
            "the solve at full depth is not finite on the calibration text: the weights are damaged, or diverged in "
            "training",
        )
        real = np.asarray(batch.segments) > 0
        kept = np.asarray(states)[:, real] if trajectory else None
        return Reference(batch, real, kept, target, float(loss.nats), float(loss.tokens))

    def states(self, coefficients: Coefficients, reference: Reference) -> Float[np.ndarray, "n_plus_1 rows D"]:
        """The short solve's trajectory, at the positions of the reference's."""
        return np.asarray(self._states(self._params, coefficients, reference.batch))[:, reference.real]

    def distance(self, coefficients: Coefficients, reference: Reference) -> Distance:
        """What separates the short solve from the full one."""
        gap, loss = self._short(self._params, coefficients, reference.batch, reference.target)
        return Distance(float(gap) * reference.tokens, float(loss.nats) - reference.nats, reference.tokens)

    def gradient(self, coefficients: Coefficients, reference: Reference) -> Coefficients:
        """Of the gap per token."""
        return self._gradient(coefficients, self._params, reference.batch, reference.target)


def squared_error(
    reference: Float[Array, "B L D"], found: Float[Array, "B L D"], real: Bool[Array, "B L"]
) -> tuple[Scalar, Scalar]:
    """Sum over real positions of |found - reference|^2, over the variance of the reference there; and how many."""
    reference, real = reference.astype(jnp.float32), real[..., None]
    count = jnp.maximum(jnp.sum(real), 1)
    kept = jnp.where(real, reference, 0.0)
    mean = jnp.sum(kept, axis=(0, 1)) / count
    variance = jnp.sum(jnp.where(real, jnp.square(reference - mean), 0.0)) / count
    missed = jnp.sum(jnp.where(real, jnp.square(found - reference), 0.0))
    return missed / jnp.maximum(variance, 1e-30), count.astype(jnp.float32)
