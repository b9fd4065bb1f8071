"""Gains: what a calibrated solve changes in a block from step to step, its weights untouched."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxode.config import ModelConfig
from jaxode.model.adapters import Adapters
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
        adapters: low-rank changes of W and V in each step; None for none.
    """

    scale: Float[Array | np.ndarray, "*axes 2 D"]
    shift: Float[Array | np.ndarray, "*axes 2 D"]
    heads: Float[Array | np.ndarray, "*axes D"]
    hidden: Float[Array | np.ndarray, "*axes F"]
    adapters: Adapters | None = None

    @classmethod
    def neutral(cls, model: ModelConfig, steps: int, rank: int = 0) -> Gains:
        """The trained block in each of `steps` solver steps, with adapters of a rank above 0."""
        # the blocks of one pass, each counted once
        axes = (steps, len(set(model.pass_blocks)))
        return cls(
            np.ones((*axes, 2, model.width), np.float32),
            np.zeros((*axes, 2, model.width), np.float32),
            np.ones((*axes, model.heads * model.head_width), np.float32),
            np.ones((*axes, model.hidden_width), np.float32),
            Adapters.neutral(model, steps, rank) if rank else None,
        )

    def read(self, u: State, sublayer: int) -> State:
        """Scale * u + shift, for the gains of one block in one step; of each row where they have an axis for rows."""
        scale, shift = self.scale[..., sublayer, :], self.shift[..., sublayer, :]
        if scale.ndim == 2:
            scale, shift = scale[:, None], shift[:, None]
        return (u * scale + shift).astype(u.dtype)
