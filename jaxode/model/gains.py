"""Gains: what a calibrated solve changes in a block from step to step, its weights untouched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxode.config import ModelConfig
from jaxode.depth import Schedule
from jaxode.types import State

ATTENTION, FEED_FORWARD = 0, 1


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Gains:
    """One number a channel, constant within a step: f(t, x) becomes f(t, x; g(t)).

    A sublayer S(u) = V phi(W u) with features phi (the heads' results, the hidden units) becomes
    V (feature * phi(W (scale * u + shift))). Ones and a shift of zero are the trained block. The leading axes are the n
    steps and the P blocks of one pass (`model.inner_blocks`, times the groups of sharing "cycle"). Sources: scale and
    shift of what is read, FiLM (Perez et al. 2018); of the features, (IA)^3 (Liu et al. 2022, section 3.3).

    Attributes:
        scale: [.., 2, D], of what the attention [0] and the feed-forward sublayer [1] read.
        shift: [.., 2, D], added to it.
        heads: [.., D], of the attention's result before its output projection.
        hidden: [.., F], of the feed-forward sublayer's hidden units.
    """

    scale: Float[Array | np.ndarray, "*axes 2 D"]
    shift: Float[Array | np.ndarray, "*axes 2 D"]
    heads: Float[Array | np.ndarray, "*axes D"]
    hidden: Float[Array | np.ndarray, "*axes F"]

    @classmethod
    def neutral(cls, model: ModelConfig, steps: int) -> Gains:
        """The trained block in each of `steps` solver steps."""
        axes = (steps, model.inner_blocks * (model.groups if model.sharing == "cycle" else 1))
        return cls(
            np.ones((*axes, 2, model.width), np.float32),
            np.zeros((*axes, 2, model.width), np.float32),
            np.ones((*axes, model.width), np.float32),
            np.ones((*axes, model.hidden_width), np.float32),
        )

    def read(self, u: State, sublayer: int) -> State:
        """Scale * u + shift, for the gains of one block in one step; of each row where they have an axis for rows."""
        scale, shift = self.scale[..., sublayer, :], self.shift[..., sublayer, :]
        if scale.ndim == 2:
            scale, shift = scale[:, None], shift[:, None]
        return (u * scale + shift).astype(u.dtype)


@no_type_check
@struct.dataclass
class GainsOverDepth:
    """The gains of a solve and the times from which each holds: a piecewise constant function of t."""

    gains: Gains
    starts: Float[Array, " N"]

    @classmethod
    def over(cls, gains: Gains | None, schedule: Schedule) -> GainsOverDepth | None:
        """Row i holds from t_i on."""
        return None if gains is None else cls(gains, jnp.asarray(schedule.times[:-1], jnp.float32))

    def at(self, t: Any) -> Gains:
        """The gains of the step that begins at t, by block."""
        row = jnp.sum(self.starts <= jnp.float32(t)) - 1
        return jax.tree.map(lambda table: jnp.asarray(table)[row], self.gains)


@no_type_check
@struct.dataclass
class GainsByRow:
    """As `GainsOverDepth` where each row of the batch solves by an entry of its own out of G.

    Attributes:
        gains: [G, N, ..], padded to the longest solve.
        starts: [G, N], padded with infinity.
        which: the entry of each row.
    """

    gains: Gains
    starts: Float[Array, "G N"]
    which: Int[Array, " B"]

    @classmethod
    def over(
        cls,
        entries: Sequence[Gains | None],
        schedules: Sequence[Schedule],
        which: Int[Array, " B"],
        neutral: Callable[[int], Gains],
    ) -> GainsByRow | None:
        """Of several solves; one without gains gets the `neutral` ones of its number of steps."""
        if all(entry is None for entry in entries):
            return None
        most = max(schedule.steps for schedule in schedules)

        def pad(table: Any) -> Any:
            return jnp.pad(jnp.asarray(table), [(0, most - len(table))] + [(0, 0)] * (table.ndim - 1))

        whole = [
            neutral(schedule.steps) if own is None else own for own, schedule in zip(entries, schedules, strict=True)
        ]
        starts = [
            np.pad(schedule.times[:-1], (0, most - schedule.steps), constant_values=np.inf) for schedule in schedules
        ]
        gains = jax.tree.map(lambda *tables: jnp.stack([pad(table) for table in tables]), *whole)
        return cls(gains, jnp.asarray(np.stack(starts), jnp.float32), which)

    def at(self, t: Any) -> Gains:
        """The gains of every row's step that begins at its own t ([B, 1, ..]), by block."""
        starts = self.starts[self.which]
        row = jnp.sum(starts <= jnp.reshape(t, (-1, 1)), axis=1) - 1
        # blocks first, then rows of the batch
        return jax.tree.map(lambda table: jnp.moveaxis(table[self.which, row], 1, 0), self.gains)
