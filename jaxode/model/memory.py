"""What a token leaves behind at every application of a block: keys and values, which later tokens read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxode.model.attention import attend, attend_heads_first
from jaxode.types import Mask

ROW_BY_ROW = 8
"""Up to so many rows are written one after the other: on a CPU that is faster than a scatter, but longer to compile."""


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Slot:
    """Keys and values of M tokens at one application of a block, rows times heads first.

    So every product over them has one batch axis. Any other layout XLA rearranges in each turn of a loop: tokens first
    it transposes, and of rows and heads apart it copies what it has just written.
    """

    keys: Float[Array, "B_heads M K"]
    values: Float[Array, "B_heads M K"]


@dataclass(frozen=True)
class Earlier:
    """The tokens before those of a solve, and room for these."""

    slots: tuple[Slot, ...]
    """Slots of T tokens."""
    end: Int[Array, "*B"]
    """Where in the slots the new tokens go, by row; one number where it is the same for all, which is faster."""
    sees: Bool[Array, "B 1 L T"]
    """Which of the T each new token may read, the new ones at end, end + 1, .. among them."""

    def within(self, window: int) -> Bool[Array, "B 1 L T"]:
        """`sees`, of the newest `window` tokens alone; 0: of all."""
        length, tokens = self.sees.shape[-2:]
        if not window or window >= tokens:
            return self.sees
        place = jnp.reshape(self.end, (-1, 1)) + jnp.arange(length)
        return self.sees & (jnp.arange(tokens) > place[:, None, :, None] - window)


class Memory:
    """Keys and values that the applications of blocks read and leave, one after the other, within one trace.

    It lives for one trace and changes while that goes on, because a field may return nothing but its increment. The
    solve must be written out step by step (adjoint "unroll"): what is left inside a loop of JAX cannot leave it.

    Without `earlier` tokens those of the solve are the first of their rows: they read each other, and each application
    leaves a slot of its own. With them, application i puts the new ones into slot order[i] and reads all of it.
    """

    def __init__(self, earlier: Earlier | None = None, order: Sequence[int] = (), *, first: bool = False):
        """`order` is the slot of each application; several may share one, where the last stays, or the `first`."""
        self.slots: list[Slot] = [] if earlier is None else list(earlier.slots)
        self._earlier, self._order = earlier, tuple(order)
        self._applications = 0
        self._first: dict[int, Slot] | None = {} if first else None

    def attend(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B L kv_heads K"],
        v: Float[Array, "B L kv_heads K"],
        *,
        mask: Mask | None,
        causal: bool,
        window: int = 0,
    ) -> Float[Array, "B L H K"]:
        """Attention at the next application, which leaves `k` and `v` behind."""
        new = Slot(_heads_first(k), _heads_first(v))
        if self._earlier is None:
            self.slots.append(new)
            return attend(q, k, v, mask=mask, causal=causal, window=window)
        index = self._order[self._applications]
        self._applications += 1
        slot = self._put(index, new)
        out = attend_heads_first(q, slot.keys, slot.values, self._earlier.within(window))
        # in its own application every token reads itself as it is; what later ones read is put back at the end, since
        # a copy of the slot beside it would cost more
        if self._first is not None:
            kept = self._first.setdefault(index, new)
            if kept is not new and index not in self._order[self._applications :]:
                self._put(index, kept)
        return out

    def _put(self, index: int, new: Slot) -> Slot:
        """The slot with the new tokens."""
        assert self._earlier is not None
        old, end = self.slots[index], self._earlier.end
        self.slots[index] = Slot(put(old.keys, new.keys, end), put(old.values, new.values, end))
        return self.slots[index]


def put(
    old: Shaped[Array, "B_heads T K"], new: Shaped[Array, "B_heads L K"], end: Int[Array, "*B"]
) -> Shaped[Array, "B_heads T K"]:
    """`old` with `new` at end, end + 1, .., by row or in all; a row with less room than L gets it last."""
    new = new.astype(old.dtype)
    if end.ndim == 0:
        return jax.lax.dynamic_update_slice(old, new, (0, end, 0))
    rows, heads = len(end), len(old) // len(end)
    if rows > ROW_BY_ROW:
        at = jnp.repeat(end, heads)
        return jax.vmap(lambda own, added, at: jax.lax.dynamic_update_slice(own, added, (at, 0)))(old, new, at)
    for row in range(rows):
        first = row * heads
        old = jax.lax.dynamic_update_slice(old, new[first : first + heads], (first, end[row], 0))
    return old


def _heads_first(features: Float[Array, "B L heads K"]) -> Float[Array, "B_heads L K"]:
    batch, length, heads, width = features.shape
    return features.transpose(0, 2, 1, 3).reshape(batch * heads, length, width)
