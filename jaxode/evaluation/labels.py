"""How well a classifier labels: its loss, and metrics of its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, require
from jaxode.data import Batch
from jaxode.evaluation.agreement import agreement
from jaxode.evaluation.divergence import diverged
from jaxode.evaluation.loss import batch_inputs
from jaxode.model import TokenClassifier
from jaxode.model.heads import ProblemType
from jaxode.model.parameters import Architecture, Parameters

Logits = Float[Array, "B classes"]


@dataclass(frozen=True)
class LabelEvaluation:
    """A classifier's quality at one depth."""

    loss: float
    """Nats per text, or of a regression the mean square error."""
    metrics: Mapping[str, float]
    """By name, as `agreement` gives them; the first is the one that counts."""
    texts: int
    """Texts, or the words of a classifier of tokens."""
    block_evaluations: int | float
    solver: str
    """The one that ran."""

    @property
    def tokens(self) -> int:
        """What was predicted: texts."""
        return self.texts


def class_loss(logits: Logits, wanted: Float[Array, "B K"], problem_type: ProblemType) -> Float[Array, " B"]:
    """-log p of the label, its mean over several yes or no, or the mean square error; of every row, in float32."""
    logits = logits.astype(jnp.float32)
    if problem_type == "regression":
        return jnp.mean(jnp.square(logits - wanted), axis=-1)
    if problem_type == "multi_label_classification":
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return -jnp.mean(wanted * yes + (1 - wanted) * no, axis=-1)
    chosen = jnp.take_along_axis(logits, wanted[:, :1].astype(jnp.int32), axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def class_divergence(reference: Logits, logits: Logits, problem_type: ProblemType) -> Float[Array, " B"]:
    """KL(reference || logits) of the predictions; of numbers their mean square distance."""
    reference, logits = reference.astype(jnp.float32), logits.astype(jnp.float32)
    if problem_type == "regression":
        return jnp.mean(jnp.square(reference - logits), axis=-1)
    if problem_type == "multi_label_classification":
        p = jax.nn.sigmoid(reference)
        yes = jax.nn.log_sigmoid(reference) - jax.nn.log_sigmoid(logits)
        no = jax.nn.log_sigmoid(-reference) - jax.nn.log_sigmoid(-logits)
        return jnp.mean(p * yes + (1 - p) * no, axis=-1)
    expected, found = jax.nn.log_softmax(reference), jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(expected) * (expected - found), axis=-1)


def row_weights(batch: Batch) -> Float[Array, " B"]:
    """How much every text counts; 0 of a row that only fills a batch."""
    return jnp.asarray(batch.weights)[:, 0]


@partial(jax.jit, static_argnames=("architecture", "depth"))
def _predicted(
    params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig
) -> tuple[Float[Array, "B *words classes"], Any]:
    model = architecture.bind(params)
    out = model(jnp.asarray(batch.tokens), depth, **batch_inputs(batch, model.config.kind, True))
    return out.logits.astype(jnp.float32), out.block_evaluations


@takes_params
def evaluate_labels(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depth: DepthConfig,
) -> LabelEvaluation:
    """Loss and metrics over labelled texts, each of which counts once.

    Raises:
        Diverged: outputs that are not finite.
        UserError: no text.
    """
    model = architecture.bind(params)
    by_word = isinstance(model, TokenClassifier)
    depth, problem = model.resolve(depth), "single_label_classification" if by_word else model.problem_type
    logits, wanted, evaluations = [], [], []
    for batch in batches:
        # of words at the first token of each, of texts a row
        real = np.asarray(batch.weights) > 0 if by_word else np.asarray(batch.weights)[:, 0] > 0
        targets_of = np.asarray(batch.targets, np.float32)[..., None] if by_word else np.asarray(batch.wanted)
        found, used = jax.device_get(_predicted(params, batch, architecture=architecture, depth=depth))
        if not np.isfinite(found).all():
            inputs = batch_inputs(batch, model.config.kind, True)
            raise diverged("a prediction", architecture, params, batch.tokens, inputs, depth)
        logits.append(found[real])
        wanted.append(targets_of[real])
        evaluations.append(float(used))
    require(bool(logits) and sum(map(len, logits)) > 0, "nothing to evaluate: there is no text; give some")
    scores, targets = np.concatenate(logits), np.concatenate(wanted)
    loss = float(jnp.mean(class_loss(jnp.asarray(scores), jnp.asarray(targets), problem)))
    blocks = sum(evaluations) / len(evaluations)
    return LabelEvaluation(
        loss,
        agreement(_decided(targets, problem, 0.5), _decided(scores, problem, 0.0), problem, model.config.labels),
        len(scores),
        round(blocks) if blocks == round(blocks) else blocks,
        depth.solver,
    )


def _decided(values: np.ndarray, problem_type: ProblemType, above: float) -> list[tuple[float | int, ...]]:
    """Of every text the numbers of its labels, or those of a regression."""
    if problem_type == "regression":
        return [tuple(map(float, row)) for row in values]
    if problem_type == "multi_label_classification":
        return [tuple(np.flatnonzero(row > above).tolist()) for row in values]
    labels = values[:, 0] if values.shape[1] == 1 else values.argmax(axis=1)
    return [(int(label),) for label in labels]
