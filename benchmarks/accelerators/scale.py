"""How large everything is that gets measured."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxode import ModelConfig


@dataclass(frozen=True)
class Scale:
    """Sizes of one kind of machine. The figures' names hold widths, steps and rows; the rest stands in the table."""

    name: str
    dtype: str
    """Of the matrix products, and in decoding and encoding of the parameters as well."""
    widths: tuple[int, ...]
    """D of the causal models, the most telling first."""
    steps: int
    """N."""
    fewer: tuple[int, ...]
    """Numbers of steps to compare with N."""
    length: int
    """L of a training row."""
    rows: int
    """Rows of a training update, on each device."""
    vocab: int
    small: int
    """D of a second model to decode."""
    decoded_rows: tuple[int, ...]
    context: int
    """Tokens that a decoded one reads."""
    turns: int
    """Tokens a row in one timed call of the decoder."""
    encoder_width: int
    encoder_rows: tuple[int, ...]
    depths: tuple[int, ...]
    """N of which the memory is read."""
    matrix: int
    """Side of the square matrices that tell the peak."""
    copied: int
    """Bytes of the array that tells the bandwidth."""
    head_width: int = 128
    """K."""

    def causal(self, width: int, steps: int | None = None) -> ModelConfig:
        """One fully shared block of this width."""
        return ModelConfig(
            vocab_size=self.vocab,
            width=width,
            heads=max(2, width // self.head_width),
            length=self.length,
            steps=steps or self.steps,
        )

    def encoder(self) -> ModelConfig:
        """ALBERT-base, or a small one."""
        return ModelConfig(
            kind="masked",
            vocab_size=30000 if self.encoder_width >= 512 else 512,
            width=self.encoder_width,
            heads=max(2, self.encoder_width // 64),
            ff_width=4 * self.encoder_width,
            embedding_width=128,
            length=128,
            steps=12,
            norm_position="post",
            norm_epsilon=1e-12,
            positions="learned",
            token_types=2,
            embedding_norm=True,
            feed_forward="gelu_tanh",
            head_activation="gelu_tanh",
        )

    @property
    def type(self) -> jnp.dtype:
        """`dtype` as JAX knows it."""
        return jnp.dtype(self.dtype)


FULL = Scale(
    name="full",
    dtype="bfloat16",
    widths=(2048, 1024),
    steps=24,
    fewer=(12, 8, 6, 4),
    length=1024,
    rows=8,
    vocab=32768,
    small=512,
    decoded_rows=(64, 8, 1),
    context=480,
    turns=32,
    encoder_width=768,
    encoder_rows=(32, 8, 256),
    depths=(12, 24, 48),
    matrix=8192,
    copied=1 << 30,
)
CPU = Scale(
    name="cpu",
    dtype="float32",
    widths=(2048, 1024),
    steps=24,
    fewer=(12, 8, 6, 4),
    length=128,
    rows=1,
    vocab=32768,
    small=512,
    decoded_rows=(8, 1),
    context=224,
    turns=4,
    encoder_width=768,
    encoder_rows=(8, 32),
    depths=(12, 24, 48),
    matrix=2048,
    copied=1 << 28,
)
TINY = Scale(
    name="tiny",
    dtype="float32",
    widths=(32,),
    steps=4,
    fewer=(2,),
    length=16,
    rows=1,
    vocab=64,
    small=32,
    decoded_rows=(2, 1),
    context=16,
    turns=4,
    encoder_width=64,
    encoder_rows=(2,),
    depths=(2, 4),
    matrix=64,
    copied=1 << 16,
    head_width=16,
)
