"""The full solve of a text, and what a short solve makes of it: compiled functions of the coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxode.config import DepthConfig, require
from jaxode.data import Batch
from jaxode.depth import Coefficients
from jaxode.evaluation.loss import LossSums, batch_segments, kl_divergence, token_loss
from jaxode.model import CausalLM, MaskedLM, SequenceClassifier
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Scalar


@dataclass(frozen=True)
class Reference:
    """The full solve of one batch."""

    batch: Batch
    real: Bool[np.ndarray, "B L"]
    """Positions that hold text, not padding."""
    states: Float[np.ndarray, "N_plus_1 rows D"]
    """The trajectory of these positions."""
    log_probabilities: Float[Array, "B choices classes"]
    """Of every choice, in half precision: every batch of a fit holds its own."""
    nats: float
    tokens: float


@dataclass(frozen=True)
class Distance:
    """A short solve against the full one, summed over the predicted tokens of a batch."""

    kl: float
    rise: float
    tokens: float


class Comparison:
    """A model at full depth beside its solve in `steps` calibrated steps.

    A language model is compared token by token. A classifier is compared sequence by sequence, one of several labels
    label by label (yes against no); for want of labels its loss is that of the classes which the full depth finds
    likeliest.

    Raises:
        UserError: a model that predicts nothing or numbers only, a batch without a token to predict, or weights with
            which the full solve is not finite.
    """

    def __init__(self, architecture: Architecture, params: Parameters, steps: int, document_mask: bool):
        """Compile on first use; the coefficients stay arguments."""
        self._params = params
        model = architecture.bind(params)
        self._classifies = isinstance(model, SequenceClassifier)
        require(
            isinstance(model, CausalLM | MaskedLM | SequenceClassifier),
            f"{type(model).__name__} predicts nothing: take the language model or the classifier of the same weights",
        )
        self._problem_type = getattr(model, "problem_type", None)
        require(
            self._problem_type != "regression",
            'problem_type = "regression": solves are compared by their probabilities, and this model gives numbers; '
            "run it at full depth, or in fewer steps of another solver",
        )
        # a classifier pools: it has to know where padding begins
        kind = "masked" if self._classifies else model.config.kind
        short_depth = DepthConfig(steps=steps, solver="calibrated", adjoint="remat")

        def run(params: Parameters, batch: Batch, depth: DepthConfig, coefficients: Any, trace: bool) -> Any:
            segments = batch_segments(batch, kind, document_mask)
            model = architecture.bind(params)
            return model(jnp.asarray(batch.tokens), depth, segments=segments, coefficients=coefficients, trace=trace)

        def full(params: Parameters, batch: Batch) -> tuple[Any, Any, LossSums]:
            out = run(params, batch, DepthConfig(solver="euler"), None, True)
            logits = self._choices(out.logits)
            predicted = jax.nn.log_softmax(logits).astype(jnp.float16)
            return out.trace.states, predicted, self._judged(logits, batch, predicted)[1]

        def short(params: Parameters, coefficients: Coefficients, batch: Batch, target: Any) -> tuple[Scalar, LossSums]:
            logits = self._choices(run(params, batch, short_depth, coefficients, False).logits)
            kl, loss = self._judged(logits, batch, target)
            return kl / loss.tokens, loss

        self._full = jax.jit(full)
        self._short = jax.jit(short)
        self._states = jax.jit(lambda params, c, batch: run(params, batch, short_depth, c, True).trace.states)
        self._gradient = jax.jit(jax.grad(lambda c, params, batch, target: short(params, c, batch, target)[0]))

    def _choices(self, logits: Any) -> Any:
        """Of a classifier [B choices classes]: one choice among its labels, or no against yes for each of several."""
        if self._problem_type == "multi_label_classification":
            # softmax(0, z) is (1 - sigmoid(z), sigmoid(z))
            return jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
        return logits[:, None] if self._classifies else logits

    def _judged(self, logits: Any, batch: Batch, reference: Any) -> tuple[Scalar, LossSums]:
        """KL(reference || logits) and the loss, summed over what is predicted."""
        targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
        if self._classifies:
            targets = jnp.argmax(reference, axis=-1)
            real = jnp.any(jnp.asarray(batch.segments) > 0, axis=1, keepdims=True)
            weights = jnp.broadcast_to(real, targets.shape).astype(jnp.float32)
        return kl_divergence(reference, logits, weights), token_loss(logits, targets, weights)

    def reference(self, batch: Batch) -> Reference:
        """Solve a batch at full depth."""
        require(
            bool(np.any(np.asarray(batch.segments if self._classifies else batch.weights) > 0)),
            "a batch of the calibration text holds no token to predict: leave it out",
        )
        states, log_probabilities, loss = self._full(self._params, batch)
        require(
            bool(np.isfinite(loss.nats)),
            "the solve at full depth is not finite on the calibration text: the weights are damaged, or diverged in "
            "training",
        )
        real = np.asarray(batch.segments) > 0
        return Reference(
            batch, real, np.asarray(states)[:, real], log_probabilities, float(loss.nats), float(loss.tokens)
        )

    def states(self, coefficients: Coefficients, reference: Reference) -> Float[np.ndarray, "n_plus_1 rows D"]:
        """The short solve's trajectory, at the positions of the reference's."""
        return np.asarray(self._states(self._params, coefficients, reference.batch))[:, reference.real]

    def distance(self, coefficients: Coefficients, reference: Reference) -> Distance:
        """KL(full || short), and the loss of the short solve over the full one's."""
        kl, loss = self._short(self._params, coefficients, reference.batch, reference.log_probabilities)
        return Distance(float(kl) * reference.tokens, float(loss.nats) - reference.nats, reference.tokens)

    def gradient(self, coefficients: Coefficients, reference: Reference) -> Coefficients:
        """Of the KL per predicted token."""
        return self._gradient(coefficients, self._params, reference.batch, reference.log_probabilities)
