"""Low-rank changes of a block's matrices and own norms: in each step of a calibrated solve, or told by a clock."""

from __future__ import annotations

import functools
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.types import Key

MANY_ROWS = 1024
"""From how many rows W + A B is made first, where that multiplies less: the other way writes [rows, F] again."""


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
            return (rows @ down) @ up
        apart = rows.reshape(len(down), -1, rows.shape[-1])
        return jnp.einsum("ble,ber,brf->blf", apart, down, up).reshape(len(rows), -1)

    def merges(self, rows: Float[Array, "rows E"]) -> bool:
        """Whether W + A B and one product is the faster way: for many rows with the same A and B.

        16 bits would round A B away beside W.
        """
        if self.down.ndim != 2 or rows.dtype != jnp.float32:
            return False
        inputs, outputs = len(self.down), self.up.shape[-1]
        return len(rows) >= MANY_ROWS and len(rows) * (inputs + outputs) >= inputs * outputs


@jax.custom_jvp
def merged_product(
    rows: Float[Array, "rows E"],
    kernel: Float[Array, "E F"],
    down: Float[Array, "E R"],
    up: Float[Array, "R F"],
) -> Float[Array, "rows F"]:
    """Rows (W + A B). Derivatives take the products apart: nobody pays for one by W that stays."""
    return rows @ (kernel + down @ up)


@functools.partial(merged_product.defjvp, symbolic_zeros=True)
def _merged_product_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (rows, kernel, down, up), (rows_dot, kernel_dot, down_dot, up_dot) = primals, tangents
    terms = [
        (rows_dot, lambda: rows_dot @ kernel + (rows_dot @ down) @ up),
        (kernel_dot, lambda: rows @ kernel_dot),
        (down_dot, lambda: (rows @ down_dot) @ up),
        (up_dot, lambda: (rows @ down) @ up_dot),
    ]
    moved = [term() for tangent, term in terms if not isinstance(tangent, SymbolicZero)]
    return merged_product(*primals), functools.reduce(jnp.add, moved)


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
        rng = np.random.default_rng(seed)

        def pair(width: int, out: int) -> LowRank:
            down = rng.normal(size=(*axes, width, rank)) / np.sqrt(width)
            return LowRank(down.astype(np.float32), np.zeros((*axes, rank, out), np.float32))

        qkv, output, inner, outer = (pair(*shape) for shape in model.matrices)
        return cls(
            qkv=qkv,
            output=output,
            inner=inner,
            outer=outer,
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

    def then(self, other: Adapters) -> Adapters:
        """Both changes at once; of what a norm gives, this one's first."""

        def both(one: LowRank, two: LowRank) -> LowRank:
            down, up = (_alike(getattr(one, name), getattr(two, name)) for name in ("down", "up"))
            return LowRank(jnp.concatenate(down, axis=-1), jnp.concatenate(up, axis=-2))

        pairs = {name: both(getattr(self, name), getattr(other, name)) for name in ("qkv", "output", "inner", "outer")}
        return Adapters(**pairs, scale=self.scale * other.scale, shift=self.shift * other.scale + other.shift)


class ToldAdapters(nnx.Module):
    """What a clock's code changes in a block's matrices: W + A diag(s) B with s a layer's, B from zero.

    Trained with the block, unlike those of a calibration, and one for every t and h instead of one a step. Behind the
    norms of a post-norm block a scale and a shift of a channel are told as well.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """A and s at random and B at 0, as LoRA begins; norms are told 0 at first."""
        self.rank, self.width, self.post = config.clock.rank, config.width, config.norm_position == "post"
        down, strengths = nnx.initializers.lecun_normal(), 4 * self.rank

        def kernel(key: Key, shape: tuple[int, int], dtype: Any) -> Array:
            # s of size 1 from a code of about 0.3
            first = nnx.initializers.variance_scaling(10.0, "fan_in", "normal")(key, (shape[0], strengths), dtype)
            return jnp.pad(first, ((0, 0), (0, shape[1] - strengths)))

        self.down = nnx.List(
            [nnx.Param(down(rngs.params(), (inputs, self.rank), jnp.float32)) for inputs, _ in config.matrices]
        )
        self.up = nnx.List([nnx.Param(jnp.zeros((self.rank, outputs))) for _, outputs in config.matrices])
        told = strengths + (4 * self.width if self.post else 0)
        self.output = nnx.Linear(config.clock_width, told, kernel_init=kernel, rngs=rngs)

    def __call__(self, told: Float[Array, "*B told"]) -> Adapters:
        """For what `output` reads from the code of one time, or of each row's own."""
        strengths = jnp.split(told[..., : 4 * self.rank], 4, axis=-1)

        def pair(place: int) -> LowRank:
            down, up = self.down[place][...], strengths[place][..., None] * self.up[place][...]
            return LowRank(jnp.broadcast_to(down, (*up.shape[:-2], *down.shape)), up)

        norms = jnp.zeros((*told.shape[:-1], 2, 2, self.width))
        if self.post:
            norms = told[..., 4 * self.rank :].reshape(norms.shape)
        scale, shift = 1.0 + norms[..., 0, :, :], norms[..., 1, :, :]
        return Adapters(*(pair(place) for place in range(4)), scale=scale, shift=shift)


def _alike(one: Any, two: Any) -> tuple[Any, Any]:
    """With the axis for rows of the batch that one of them has."""
    if one.ndim == two.ndim:
        return one, two
    rows = max(one, two, key=lambda table: table.ndim).shape[0]
    return tuple(table if table.ndim == 3 else jnp.broadcast_to(table, (rows, *table.shape)) for table in (one, two))  # pyright: ignore[reportReturnType]


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
