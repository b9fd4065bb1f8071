"""Rotary positions: the angles of every place, and queries and keys turned by them (Su et al. 2021)."""

from __future__ import annotations

from typing import no_type_check

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Rotary:
    """cos and sin of the rotation angles of each position and channel pair, for all rows or by row."""

    cos: Float[Array, "*B L half_K"]
    sin: Float[Array, "*B L half_K"]


def rotary_angles(
    places: int | Int[Array, "*B L"],
    head_width: int,
    base: float,
    *,
    rounded: bool = False,
    scaling: tuple[float, ...] = (),
) -> Rotary:
    """angle(l, i) = l · base^(-2 i / K) at places l, or at the first so many (Su et al. 2021, section 3.2.2).

    Args:
        places: of tokens in their texts, or how many there are.
        head_width: K.
        base: of the frequencies.
        rounded: round the frequencies to bfloat16.
        scaling: see `stretched`; empty for none.
    """
    places = jnp.arange(places) if isinstance(places, int) else places
    frequency = base ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    frequency = stretched(frequency, *scaling) if scaling else frequency
    if rounded:
        frequency = frequency.astype(jnp.bfloat16).astype(jnp.float32)
    angle = places.astype(jnp.float32)[..., None] * frequency
    return Rotary(cos=jnp.cos(angle), sin=jnp.sin(angle))


def stretched(
    frequency: Float[Array, " half_K"], factor: float, low: float, high: float, length: float
) -> Float[Array, " half_K"]:
    """Frequencies for longer texts: waves longer than `length` / `low` turn `factor` times slower, those shorter than
    `length` / `high` as before, those between partly (Llama 3.1, its released configuration).
    """
    turns = length * frequency / (2 * jnp.pi)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * frequency + (1 - kept) * frequency / factor


def rotate(x: Float[Array, "B L heads K"], rotary: Rotary, pairs: str = "halves") -> Float[Array, "B L heads K"]:
    """Rotate channel i together with channel i + K/2 of every head, or 2i with 2i + 1, by its position's angle."""
    cos, sin = (jnp.expand_dims(part, -2).astype(x.dtype) for part in (rotary.cos, rotary.sin))
    if pairs == "neighbours":
        first, second = x[..., 0::2], x[..., 1::2]
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.reshape(x.shape)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
