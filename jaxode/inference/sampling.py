"""From logits to a token: small frozen dataclasses, static under `jax.jit`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxode.config import require
from jaxode.types import Key


@dataclass(frozen=True)
class Greedy:
    """The most likely token; the first of equals."""

    def __call__(self, logits: Float[Array, "B V"], key: Key) -> Int[Array, " B"]:
        """The argmax of z; `key` is not used."""
        return jnp.argmax(logits, axis=-1)


@dataclass(frozen=True)
class Temperature:
    """A draw from softmax(z / value): below 1 sharper than the model, above 1 flatter.

    Raises:
        UserError: a value that is not positive.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        require(
            self.value > 0 and math.isfinite(self.value),
            f"temperature = {self.value}: must be positive and finite; Greedy() takes the most likely token",
        )

    def __call__(self, logits: Float[Array, "B V"], key: Key) -> Int[Array, " B"]:
        """One draw a row."""
        return jax.random.categorical(key, logits.astype(jnp.float32) / self.value, axis=-1)


Sampling = Greedy | Temperature


def make_sampling(temperature: float) -> Sampling:
    """`Greedy` at temperature 0, else `Temperature`."""
    return Temperature(temperature) if temperature else Greedy()
