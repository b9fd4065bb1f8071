"""The loss of a model on batches: nats per predicted token, perplexity, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, UserError
from jaxode.data import Batch
from jaxode.evaluation.divergence import diverged
from jaxode.model import ModelOutput
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Key, Logits, Scalar, Segments


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class LossSums:
    """Sums that add up over batches and devices.

    Attributes:
        nats: sum of weight * -log p(target).
        tokens: sum of the weights.
    """

    nats: Scalar
    tokens: Scalar


@dataclass(frozen=True)
class Evaluation:
    """A model's quality at one depth configuration, and what a forward pass costs there."""

    nats_per_token: float
    perplexity: float
    """exp(nats per token)."""
    bits_per_byte: float | None
    """nats per token / (bytes per token * ln 2); None where bytes per token are unknown."""
    tokens: int
    """Tokens that were predicted."""
    block_evaluations: int | float
    """Applications of a block in one forward pass; the mean over batches for an adaptive solver."""
    solver: str
    """The one that ran."""


def token_loss(logits: Logits, targets: Int[Array, "B L"], weights: Float[Array, "B L"]) -> LossSums:
    """Sum of w * (logsumexp(z) - z[target]) over positions, in float32, without a one-hot [B L V]."""
    nats, tokens = row_loss(logits, targets, weights)
    return LossSums(nats=jnp.sum(nats), tokens=jnp.sum(tokens))


def row_loss(
    logits: Logits, targets: Int[Array, "B L"], weights: Float[Array, "B L"]
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The sums of `token_loss` for every row: nats, and weights."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    # where, not only the product: a padded position may hold anything, and 0 * inf is nan
    return jnp.sum(jnp.where(weights > 0, nats * weights, 0.0), axis=-1), jnp.sum(weights, axis=-1)


def kl_divergence(reference: Logits, logits: Logits, weights: Float[Array, "B L"]) -> Scalar:
    """Sum of weight * KL(p || q) over positions, nats: `reference` = log p, q = softmax(logits); in float32."""
    expected, found = reference.astype(jnp.float32), jax.nn.log_softmax(logits.astype(jnp.float32))
    each = jnp.sum(jnp.exp(expected) * (expected - found), axis=-1)
    return jnp.sum(jnp.where(weights > 0, each * weights, 0.0))


def batch_segments(batch: Batch, kind: str, document_mask: bool) -> Segments | None:
    """What the model gets as `segments`, [B L] or None.

    Documents where attention keeps within them, as it does where rows hold whole texts; otherwise real against padding
    for a masked model, which would look at the padding, and nothing for a causal one, where padding comes last and is
    never looked at.
    """
    if document_mask or batch.places is not None:
        return jnp.asarray(batch.segments)
    return jnp.minimum(jnp.asarray(batch.segments), 1) if kind == "masked" else None


def batch_inputs(batch: Batch, kind: str, document_mask: bool) -> dict[str, Any]:
    """What a model gets of a batch besides the tokens: `segments`, and `places` where rows hold whole texts."""
    own = {} if batch.places is None else {"places": jnp.asarray(batch.places)}
    own |= {} if batch.kinds is None else {"token_types": jnp.asarray(batch.kinds)}
    return {"segments": batch_segments(batch, kind, document_mask or batch.wanted is not None), **own}


def forward(
    model: Any, batch: Batch, depth: DepthConfig, *, document_mask: bool, key: Key | None = None
) -> tuple[LossSums, ModelOutput]:
    """One forward pass with its loss, and its output; traceable and differentiable. `key` turns dropout on."""
    inputs = batch_inputs(batch, model.config.kind, document_mask)
    out = model(jnp.asarray(batch.tokens), depth, **inputs, key=key)
    return token_loss(out.logits, jnp.asarray(batch.targets), jnp.asarray(batch.weights)), out


# One cache for the process: a second evaluation of the same architecture and depth compiles nothing.
@partial(jax.jit, static_argnames=("architecture", "depth", "document_mask"))
def evaluation_step(
    params: Parameters, batch: Batch, *, architecture: Architecture, depth: DepthConfig, document_mask: bool
) -> tuple[LossSums, Any]:
    """The compiled forward pass of `evaluate`: its sums, and the block evaluations made."""
    sums, out = forward(architecture.bind(params), batch, depth, document_mask=document_mask)
    return sums, out.block_evaluations


@takes_params
def evaluate(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    depth: DepthConfig,
    *,
    document_mask: bool = False,
    bytes_per_token: float | None = None,
    progress: str | None = None,
) -> Evaluation:
    """Mean loss over batches of one shape; sums in float32 within a batch, in float64 over batches.

    Args:
        architecture: the model without its numbers.
        params: its numbers.
        batches: read once.
        depth: solver, steps and schedule.
        document_mask: keep attention within documents.
        bytes_per_token: UTF-8 bytes a token stands for, which gives bits per byte.
        progress: name of a bar, shown where standard error is a terminal; None shows none.

    Raises:
        Diverged: the loss is not finite; the message names the step at which the state stopped being so.
        UserError: nothing was to be predicted.
    """
    depth = architecture.bind(params).resolve(depth)
    nats = tokens = evaluations = 0.0
    count = 0
    for batch in tqdm(batches, desc=progress, unit="batch", leave=False, disable=True if progress is None else None):
        step = evaluation_step(params, batch, architecture=architecture, depth=depth, document_mask=document_mask)
        sums, used = jax.device_get(step)
        nats, tokens, evaluations = nats + float(sums.nats), tokens + float(sums.tokens), evaluations + float(used)
        count += 1
        if not math.isfinite(nats):
            inputs = batch_inputs(batch, architecture.bind(params).config.kind, document_mask)
            raise diverged("the loss", architecture, params, batch.tokens, inputs, depth)
    if tokens == 0:
        raise UserError("nothing to evaluate: the text holds no token to predict; give more text")
    mean = nats / tokens
    blocks = evaluations / count
    return Evaluation(
        nats_per_token=mean,
        perplexity=math.exp(min(mean, 700.0)),
        bits_per_byte=None if bytes_per_token is None else mean / (bytes_per_token * math.log(2)),
        tokens=round(tokens),
        block_evaluations=round(blocks) if blocks == round(blocks) else blocks,
        solver=depth.solver,
    )
