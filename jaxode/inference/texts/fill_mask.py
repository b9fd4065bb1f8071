"""Fill in [MASK] with a masked model: candidates for every mask, and the text with the best ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxode.checkpoint import takes_tokenizer
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Tokenizer, segments
from jaxode.data.tokenizers import Frame
from jaxode.evaluation import diverged
from jaxode.inference.texts.token_ids import check_vocabulary
from jaxode.model import Transformer, plan
from jaxode.model.parameters import Architecture, Parameters
from jaxode.types import Segments, Tokens

MASK = "[MASK]"


@dataclass(frozen=True)
class Candidate:
    """A token that may stand at a mask."""

    token: str
    """Its text, with the space before it where it begins a word."""
    id: int
    probability: float
    """Softmax over the whole vocabulary."""


@dataclass(frozen=True)
class MaskFill:
    """One mask's candidates, the most likely first."""

    position: int
    """Place of the mask among the text's tokens, from 0."""
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class FilledText:
    """The text with every mask replaced by its first candidate, each chosen with all masks still in place."""

    text: str
    fills: tuple[MaskFill, ...]
    tokens: int
    """Tokens of the text."""
    block_evaluations: int
    solver: str
    """The one that ran."""


@partial(jax.jit, static_argnames=("architecture", "depth"))
def mask_logits(
    params: Parameters,
    tokens: Tokens,
    segments: Segments,
    positions: Int[Array, " masks"],
    *,
    architecture: Architecture,
    depth: DepthConfig,
) -> tuple[Float[Array, "masks V"], Any]:
    """Logits at some positions of one row [1 L], the only ones to go through the head, and the block evaluations."""
    model = architecture.bind(params)
    out = model.hidden(tokens, depth, segments=segments)
    return model.head(jnp.take(out.state, positions, axis=1), model.embedding)[0], out.block_evaluations


@takes_tokenizer
def fill(
    architecture: Architecture,
    params: Parameters,
    tokenizer: Tokenizer,
    text: str,
    *,
    depth: DepthConfig | None = None,
    top: int = 5,
    document_mask: bool = False,
    frame: Frame = None,
) -> FilledText:
    """Candidates for every [MASK] of `text`, in one forward pass.

    Args:
        architecture: a masked model without its numbers.
        params: its numbers.
        tokenizer: the model's own.
        text: with at least one [MASK], at most L tokens long.
        depth: solver, steps and schedule; full depth when None.
        top: candidates a mask. Special tokens are never among them.
        document_mask: keep attention within documents.
        frame: put the text within the tokenizer's template ([CLS] text [SEP]), or between two named tokens; None:
            within the template where the model was trained so.

    Raises:
        UserError: a causal model, another model's tokenizer, several texts, one without a mask or longer than L, or a
            depth that does not fit the layout.
        Diverged: predictions that are not finite.
    """
    bound: Transformer = architecture.bind(params)
    model: ModelConfig = bound.config
    require(
        model.kind == "masked",
        f'model.kind = "{model.kind}": a causal model continues text and cannot fill in {MASK}; use task generate',
    )
    require(
        tokenizer.mask_id is not None,
        f"tokenizer {tokenizer.name} has no mask token, so there is nothing to fill in: give the model's own tokenizer",
    )
    require(isinstance(text, str), f"text is of type {type(text).__name__}: give one string")
    check_vocabulary(model, tokenizer)
    require(top >= 1, f"top = {top}: must be at least 1")
    depth = bound.resolve(depth or DepthConfig())
    plan(model, depth)
    ids, masks = _encode(tokenizer, text, frame)
    require(bool(masks), f"the prompt holds no {MASK}: write it where a token is to be filled in, as in 'a {MASK} day'")
    require(
        len(ids) <= model.length,
        f"the prompt has {len(ids)} tokens, the model reads at most model.length = {model.length}: shorten it",
    )
    row = np.full((1, model.length), tokenizer.pad_id, np.int32)
    row[0, : len(ids)] = ids
    documents = segments(row, tokenizer.end_id, np.array([len(ids)]))
    seen = documents if document_mask else np.minimum(documents, 1)  # padding is not looked at
    out = mask_logits(params, row, seen, np.asarray(masks, np.int32), architecture=architecture, depth=depth)
    logits, evaluations = jax.device_get(out)
    if not np.isfinite(logits).all():
        raise diverged("a prediction", architecture, params, row, {"segments": seen}, depth)
    fills = tuple(MaskFill(at, _candidates(tokenizer, row, top)) for at, row in zip(masks, logits, strict=True))
    for found in fills:
        ids[found.position] = found.candidates[0].id
    return FilledText(tokenizer.decode(ids), fills, len(ids), int(evaluations), depth.solver)


def _encode(tokenizer: Tokenizer, text: str, frame: Frame) -> tuple[list[int], list[int]]:
    """Token ids, and where the masks are. Some vocabularies write the mask in another way."""
    assert tokenizer.mask_id is not None
    before, after = tokenizer.around(frame)
    text = text.replace(MASK, tokenizer.token(tokenizer.mask_id) or MASK)
    ids = [*before, *tokenizer.encode(text, allow_special=True), *after]
    return ids, [place for place, token in enumerate(ids) if token == tokenizer.mask_id]


def _candidates(tokenizer: Tokenizer, logits: Float[np.ndarray, " V"], top: int) -> tuple[Candidate, ...]:
    ordinary = np.asarray(tokenizer.ordinary_ids)
    shifted = logits.astype(np.float64) - logits.max()
    probabilities = np.exp(shifted) / np.exp(shifted).sum()
    # stable: the first of equals, as argmax takes
    best = ordinary[np.argsort(-probabilities[ordinary], kind="stable")[:top]]
    return tuple(Candidate(_show(tokenizer, int(i)), int(i), float(probabilities[i])) for i in best)


def _show(tokenizer: Tokenizer, token: int) -> str:
    """Its text; its vocabulary entry where it is part of a character only."""
    text = tokenizer.decode([token])
    return text if text and "\ufffd" not in text else tokenizer.token(token) or text
