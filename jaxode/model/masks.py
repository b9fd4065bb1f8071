"""What a segment, a prefix and a place are to attention."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxode.types import Mask, Segments, TokenTypes


def prefix_mask(token_types: TokenTypes) -> Mask:
    """True where a query may look at a key: at every earlier one, and within the tokens of type 1 both ways."""
    place, first = jnp.arange(token_types.shape[1]), token_types == 1
    return ((place[:, None] >= place) | (first[:, :, None] & first[:, None, :]))[:, None]


def text_places(segments: Segments) -> Int[Array, "B L"]:
    """Places of tokens in their texts, which begin behind what pads a row on the left; padding there is at 0."""
    first = jnp.argmax(segments > 0, axis=1)
    return jnp.maximum(jnp.arange(segments.shape[1]) - first[:, None], 0)


def document_mask(segments: Segments, causal: bool) -> Mask:
    """True where query and key lie in the same document; no query of a document sees padding (0).

    A padding query of a causal model sees the padding, which forms a document of its own; that of a masked model reads
    the row's last document, so that with one document a row every query reads exactly the real tokens, as BERT-like
    models are run elsewhere. Either way every query sees something.
    """
    own = segments
    if not causal:
        own = jnp.where(segments > 0, segments, jnp.max(segments, axis=1, keepdims=True))
    return (own[:, :, None] == segments[:, None, :])[:, None]
