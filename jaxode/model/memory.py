"""What a token leaves behind at every application of a block: keys and values, which later tokens read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxode.model.layers import attend, attend_over
from jaxode.types import Mask

ROW_BY_ROW = 8
"""Up to so many rows are written one after the other: on a CPU that is faster than a scatter, but longer to compile."""


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Slot:
    """Keys and values of M tokens at one application of a block, heads first: XLA would copy the other layout."""

    keys: Float[Array, "B kv_heads M K"]
    values: Float[Array, "B kv_heads M K"]


class Memory:
    """The slots that the applications of blocks in one solve read and leave, in the order in which they are traced.

    It lives for one trace and changes while that goes on, because a field may return nothing but its increment. The
    solve must be written out step by step (adjoint "unroll"): what is left inside a loop of JAX cannot leave it.

    Without `recent` the tokens of the solve are the first of their rows: they read each other, and each application
    leaves a slot of its own. With it they come after `past` and the first `count` tokens of `recent`: application i
    puts them into slot order[i] of `recent` and reads both. `past` stays as it is, so XLA copies it nowhere.
    """

    def __init__(
        self,
        *,
        order: Sequence[int] = (),
        past: Sequence[Slot] = (),
        recent: Sequence[Slot] = (),
        count: Int[Array, " B"] | None = None,
        sees_past: Bool[Array, "B 1 L T"] | None = None,
        sees_recent: Bool[Array, "B 1 L R"] | None = None,
    ):
        """What the solve begins with.

        Args:
            order: the slot of each application; several may share one.
            past: slots of T tokens, read only.
            recent: slots of R tokens, of which the new ones become part.
            count: tokens of `recent` that are there already, by row.
            sees_past: which of `past` each new token may read.
            sees_recent: the same of `recent`, the new tokens at count, count + 1, ..
        """
        self.slots = list(recent)
        self._order, self._past = tuple(order), tuple(past)
        self._count, self._sees_past, self._sees_recent = count, sees_past, sees_recent
        self._applications = 0

    def attend(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B L kv_heads K"],
        v: Float[Array, "B L kv_heads K"],
        *,
        mask: Mask | None,
        causal: bool,
    ) -> Float[Array, "B L H K"]:
        """Attention at the next application, which leaves `k` and `v` behind."""
        new = Slot(k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3))
        if self._count is None:
            self.slots.append(new)
            return attend(q, k, v, mask=mask, causal=causal)
        index = self._order[self._applications]
        self._applications += 1
        slot = jax.tree.map(lambda old, fresh: put(old, fresh, self._count), self.slots[index], new)
        self.slots[index] = slot
        past = self._past[index]
        return attend_over(q, ((past.keys, past.values, self._sees_past), (slot.keys, slot.values, self._sees_recent)))


def put(
    old: Shaped[Array, "B heads R K"], new: Shaped[Array, "B heads L K"], count: Int[Array, " B"]
) -> Shaped[Array, "B heads R K"]:
    """`old` with `new` at count, count + 1, .. of each row; a row with less room than L gets it at its end."""
    if new.shape[2] == 1:
        here = jnp.arange(old.shape[2])[None, :] == count[:, None]
        return jnp.where(here[:, None, :, None], new.astype(old.dtype), old)
    new = new.astype(old.dtype)
    if len(old) > ROW_BY_ROW:
        return jax.vmap(lambda own, added, at: jax.lax.dynamic_update_slice(own, added, (0, at, 0)))(old, new, count)
    for row in range(len(old)):
        old = jax.lax.dynamic_update_slice(old, new[row : row + 1], (row, 0, count[row], 0))
    return old
