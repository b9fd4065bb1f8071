"""How well a classifier labels: its loss, and metrics of its predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, require
from jaxode.data import Batch
from jaxode.evaluation.agreement import agreement
from jaxode.evaluation.divergence import diverged
from jaxode.evaluation.entities import word_agreement
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
    """By name, as `agreement` or `word_agreement` gives them; the first is the one that counts."""
    texts: int
    """Texts, or the words of a classifier of tokens."""
    block_evaluations: int | float
    solver: str
    """The one that ran."""
    unit: Literal["text", "word"] = "text"
    """What has a label."""

    @property
    def tokens(self) -> int:
        """What was predicted: texts or words."""
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
def label_step(
    params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig
) -> tuple[Float[Array, "B *words classes"], Any]:
    """The compiled forward pass that is measured and timed: logits, and the block evaluations made."""
    model = architecture.bind(params)
    out = model(jnp.asarray(batch.tokens), depth, **batch_inputs(batch, model.config.kind, True))
    return out.logits.astype(jnp.float32), out.block_evaluations


@dataclass(frozen=True)
class LabelPredictions:
    """What a classifier gives for labelled texts or words at one depth, and what was to be given; one row each."""

    logits: Float[np.ndarray, "rows classes"]
    wanted: Float[np.ndarray, "rows K"]
    """The number of the label, or 0 or 1 for each of several, or the numbers of a regression."""
    words: Int[np.ndarray, " sentences"] | None
    """How many rows every sentence has; None where a row is a text."""
    problem_type: ProblemType
    labels: tuple[str, ...]
    block_evaluations: int | float
    solver: str
    """The one that ran."""

    @property
    def evaluation(self) -> LabelEvaluation:
        """Loss and metrics."""
        losses = class_loss(jnp.asarray(self.logits), jnp.asarray(self.wanted), self.problem_type)
        expected, found = _decided(self.wanted, self.problem_type, 0.5), self.decided
        if self.words is None:
            metrics = agreement(expected, found, self.problem_type, self.labels)
        else:
            metrics = word_agreement(self._sentences(expected), self._sentences(found), self.labels)
        unit = "text" if self.words is None else "word"
        return LabelEvaluation(float(jnp.mean(losses)), metrics, len(found), self.block_evaluations, self.solver, unit)

    @property
    def decided(self) -> list[tuple[float | int, ...]]:
        """Of every row the numbers of its labels, or those of a regression."""
        return _decided(self.logits, self.problem_type, 0.0)

    def _sentences(self, rows: list[tuple[float | int, ...]]) -> list[list[int]]:
        assert self.words is not None
        ends = np.cumsum(self.words)
        return [[int(row[0]) for row in rows[end - size : end]] for end, size in zip(ends, self.words, strict=True)]


def predict_labels(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depth: DepthConfig,
    *,
    labels: Sequence[str] = (),
    tick: Callable[[], Any] | None = None,
) -> LabelPredictions:
    """The logits of labelled texts, or of words at their first tokens; `tick` is called after every batch.

    `labels` are their names where the model's own settings hold none, as those of a Hugging Face model.

    Raises:
        Diverged: outputs that are not finite.
        UserError: no text.
    """
    model = architecture.bind(params)
    by_word = isinstance(model, TokenClassifier)
    depth = model.resolve(depth)
    logits, wanted, evaluations, words = [], [], [], []
    for batch in batches:
        # of words at the first token of each, of texts a row
        real = np.asarray(batch.weights) > 0 if by_word else np.asarray(batch.weights)[:, 0] > 0
        targets = np.asarray(batch.targets, np.float32)[..., None] if by_word else np.asarray(batch.wanted)
        found, used = jax.device_get(label_step(params, batch, architecture=architecture, depth=depth))
        if not np.isfinite(found).all():
            inputs = batch_inputs(batch, model.config.kind, True)
            raise diverged("a prediction", architecture, params, batch.tokens, inputs, depth)
        logits.append(found[real])
        wanted.append(targets[real])
        evaluations.append(float(used))
        if by_word:
            words.append(real.sum(axis=1)[real.any(axis=1)])
        if tick is not None:
            tick()
    require(bool(logits) and sum(map(len, logits)) > 0, "nothing to evaluate: there is no text; give some")
    blocks = sum(evaluations) / len(evaluations)
    return LabelPredictions(
        np.concatenate(logits),
        np.concatenate(wanted),
        np.concatenate(words) if by_word else None,
        "single_label_classification" if by_word else model.problem_type,
        tuple(labels) or model.config.labels,
        round(blocks) if blocks == round(blocks) else blocks,
        depth.solver,
    )


@takes_params
def evaluate_labels(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depth: DepthConfig,
    *,
    labels: Sequence[str] = (),
) -> LabelEvaluation:
    """Loss and metrics over labelled texts, each of which counts once; `labels` as of `predict_labels`.

    Raises:
        Diverged: outputs that are not finite.
        UserError: no text.
    """
    return predict_labels(architecture, params, batches, depth, labels=labels).evaluation


def _decided(values: np.ndarray, problem_type: ProblemType, above: float) -> list[tuple[float | int, ...]]:
    """Of every text the numbers of its labels, or those of a regression."""
    if problem_type == "regression":
        return [tuple(map(float, row)) for row in values]
    if problem_type == "multi_label_classification":
        return [tuple(np.flatnonzero(row > above).tolist()) for row in values]
    labels = values[:, 0] if values.shape[1] == 1 else values.argmax(axis=1)
    return [(int(label),) for label in labels]
