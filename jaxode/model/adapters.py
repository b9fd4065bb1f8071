"""Step adapters: low-rank changes of a block's matrices and own norms in each step of a calibrated solve."""

from __future__ import annotations

from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxode.config import ModelConfig

MANY_ROWS, FEW_SUMS = 2048, 16
"""From how many rows, and up to which rank, B is applied as sums: below and above, a product is faster."""


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class LowRank:
    """A B, added to a matrix [E, F] without being merged into it (Hu et al. 2022, LoRA).

    Attributes:
        down: A [.., E, R].
        up: B [.., R, F].
    """

    down: Float[Array | np.ndarray, "*axes E R"]
    up: Float[Array | np.ndarray, "*axes R F"]

    def __call__(self, rows: Float[Array, "rows E"]) -> Float[Array, "rows F"]:
        """Rows A B; with an axis for rows of the batch, each row's tokens by their own A and B."""
        down, up = jnp.asarray(self.down, rows.dtype), jnp.asarray(self.up, rows.dtype)
        if down.ndim == 2:
            sums = rows.dtype == jnp.float32 and len(rows) >= MANY_ROWS and len(up) <= FEW_SUMS
            spread = _spread if sums else jnp.matmul
            return spread(rows @ down, up)
        apart = rows.reshape(len(down), -1, rows.shape[-1])
        return jnp.einsum("ble,ber,brf->blf", apart, down, up).reshape(len(rows), -1)


@jax.custom_jvp
def _spread(features: Float[Array, "rows R"], up: Float[Array, "R F"]) -> Float[Array, "rows F"]:
    """Features B as R sums, which fuse with what reads them: a product of its own writes [rows, F] and reads it again.

    Gradients take the products.
    """
    return sum(features[:, r, None] * up[r] for r in range(1, len(up))) + features[:, 0, None] * up[0]


@_spread.defjvp
def _spread_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (features, up), (features_dot, up_dot) = primals, tangents
    return features @ up, features_dot @ up + features @ up_dot


@no_type_check
@struct.dataclass
class Adapters:
    """What a step changes in one block's matrices, and in the norms that stand behind its branches.

    Leading axes as those of `Gains`: steps, and the blocks of one pass. An `up` of zeros, a scale of ones and a shift
    of zeros are the trained block. Source: layer-wise low-rank adapters of a shared block, Bae et al. 2024 (Relaxed
    Recursive Transformers), there trained with the block; here its weights are frozen.

    Attributes:
        qkv: of the fused projection to queries, keys and values.
        output: of the attention's output projection.
        inner: of the feed-forward sublayer's first projection.
        outer: of its second.
        scale: [.., 2, D], of what the norm behind the attention [0] and behind the feed-forward sublayer [1] gives, in
            post-norm blocks; others have their norms before the branch, where gains stand.
        shift: [.., 2, D], added to it.
    """

    qkv: LowRank
    output: LowRank
    inner: LowRank
    outer: LowRank
    scale: Float[Array | np.ndarray, "*axes 2 D"]
    shift: Float[Array | np.ndarray, "*axes 2 D"]

    @classmethod
    def neutral(cls, model: ModelConfig, steps: int, rank: int, seed: int = 0) -> Adapters:
        """The trained block in each of `steps` solver steps: A random, B zero."""
        axes = (steps, len(set(model.pass_blocks)))
        heads, gate = model.heads * model.head_width, model.attention.gate
        fused = (model.heads * (1 + gate) + 2 * model.num_kv_heads) * model.head_width
        hidden = model.hidden_width
        inner = 2 * hidden if model.feed_forward == "swiglu" else hidden
        rng = np.random.default_rng(seed)

        def pair(width: int, out: int) -> LowRank:
            down = rng.normal(size=(*axes, width, rank)) / np.sqrt(width)
            return LowRank(down.astype(np.float32), np.zeros((*axes, rank, out), np.float32))

        return cls(
            qkv=pair(model.width, fused),
            output=pair(heads, model.width),
            inner=pair(model.width, inner),
            outer=pair(hidden, model.width),
            scale=np.ones((*axes, 2, model.width), np.float32),
            shift=np.zeros((*axes, 2, model.width), np.float32),
        )

    @property
    def rank(self) -> int:
        """R."""
        return self.qkv.down.shape[-1]

    def normed(self, u: Array, sublayer: int) -> Array:
        """Scale * u + shift, for what the norm behind a branch gives."""
        scale, shift = self.scale[..., sublayer, :], self.shift[..., sublayer, :]
        if scale.ndim == 2:
            scale, shift = scale[:, None], shift[:, None]
        return (u * scale + shift).astype(u.dtype)


def wider(adapters: Adapters, rank: int) -> Adapters:
    """The same changes with more columns, all zero: so that steps of several ranks have one shape."""

    def pad(pair: LowRank) -> LowRank:
        more = rank - pair.down.shape[-1]
        down = jnp.pad(jnp.asarray(pair.down), [(0, 0)] * (pair.down.ndim - 1) + [(0, more)])
        up = jnp.pad(jnp.asarray(pair.up), [(0, 0)] * (pair.up.ndim - 2) + [(0, more), (0, 0)])
        return LowRank(down, up)

    return jax.tree.map(
        lambda part: pad(part) if isinstance(part, LowRank) else part,
        adapters,
        is_leaf=lambda part: isinstance(part, LowRank),
    )
