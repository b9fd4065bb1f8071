"""What a token leaves behind at every application of a block: keys and values, which later tokens read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import jax
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


@dataclass(frozen=True)
class Earlier:
    """The tokens before those of a solve.

    Those of `past` are read only, so XLA copies them nowhere; the new ones become part of `recent`.
    """

    past: tuple[Slot, ...]
    """Slots of T tokens."""
    recent: tuple[Slot, ...]
    """Slots of R tokens, of which the new ones are to be the next."""
    count: Int[Array, "*B"]
    """Tokens of `recent` that are there already, by row; one number where all have as many, which is faster."""
    sees_past: Bool[Array, "B 1 L T"]
    """Which of `past` each new token may read."""
    sees_recent: Bool[Array, "B 1 L R"]
    """The same of `recent`, the new tokens at count, count + 1, .."""


class Memory:
    """Keys and values that the applications of blocks read and leave, one after the other, within one trace.

    It lives for one trace and changes while that goes on, because a field may return nothing but its increment. The
    solve must be written out step by step (adjoint "unroll"): what is left inside a loop of JAX cannot leave it.

    Without `earlier` tokens those of the solve are the first of their rows: they read each other, and each application
    leaves a slot of its own. With them, application i puts the new ones into slot order[i] of `recent` and reads both.
    """

    def __init__(self, earlier: Earlier | None = None, order: Sequence[int] = ()):
        """`order` is the slot of each application; several may share one."""
        self.slots: list[Slot] = [] if earlier is None else list(earlier.recent)
        self._earlier, self._order = earlier, tuple(order)
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
        earlier = self._earlier
        if earlier is None:
            self.slots.append(new)
            return attend(q, k, v, mask=mask, causal=causal)
        index = self._order[self._applications]
        self._applications += 1
        old, past = self.slots[index], earlier.past[index]
        slot = Slot(put(old.keys, new.keys, earlier.count), put(old.values, new.values, earlier.count))
        self.slots[index] = slot
        return attend_over(
            q, ((past.keys, past.values, earlier.sees_past), (slot.keys, slot.values, earlier.sees_recent))
        )


def put(
    old: Shaped[Array, "B heads R K"], new: Shaped[Array, "B heads L K"], count: Int[Array, "*B"]
) -> Shaped[Array, "B heads R K"]:
    """`old` with `new` at count, count + 1, .., by row or in all; a row with less room than L gets it at its end."""
    new = new.astype(old.dtype)
    if count.ndim == 0:
        return jax.lax.dynamic_update_slice(old, new, (0, 0, count, 0))
    if len(old) > ROW_BY_ROW:
        return jax.vmap(lambda own, added, at: jax.lax.dynamic_update_slice(own, added, (0, at, 0)))(old, new, count)
    for row in range(len(old)):
        old = jax.lax.dynamic_update_slice(old, new[row : row + 1], (row, 0, count[row], 0))
    return old
