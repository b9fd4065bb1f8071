"""Texts a second of an encoder of ALBERT-base's shape, beside PyTorch's AlbertModel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from accelerators.rivals import rival
from accelerators.scale import Scale
from accelerators.timing import median_seconds
from jaxode.config import DepthConfig
from jaxode.model import Encoder
from jaxode.model.parameters import split


def encoding(scale: Scale, known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """At every number of rows, in 12, 6 and 4 steps."""
    del known
    model, found, skipped = scale.encoder(), {}, {}
    architecture, params = split(Encoder(model, rngs=nnx.Rngs(0), dtype=scale.type))
    params = jax.tree.map(lambda value: value.astype(scale.type), params)

    @partial(jax.jit, static_argnames="steps")
    def run(params: Any, tokens: Any, steps: int) -> Any:
        out = architecture.bind(params)(tokens, DepthConfig(steps=steps, solver="euler"))
        return out.state, out.pooled

    for rows in scale.encoder_rows:
        tokens = np.random.default_rng(rows).integers(0, model.vocab_size, (rows, model.length)).astype(np.int32)
        candidates: dict[str, Any] = {f"n = {n}": partial(run, params, tokens, steps=n) for n in (12, 6, 4)}
        theirs = rival("albert", skipped, model, tokens, scale.dtype)
        if theirs is not None:
            candidates["PyTorch"] = theirs
        seconds = median_seconds(candidates)
        for n in (12, 6, 4):
            found[f"encoder, {rows} texts, n = {n}: texts a second"] = rows / seconds[f"n = {n}"]
        if theirs is not None:
            key = f"encoder, {rows} texts, n = 12: speed over PyTorch compiled"
            found[key] = seconds["PyTorch"] / seconds["n = 12"]
    return found, skipped
