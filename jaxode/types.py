"""The shape alphabet: one letter an axis, the same everywhere.

B batch · L length · D width · E embedding width · H heads · K head width · F feed-forward width ·
V vocabulary · N steps of depth. Depth-time t runs from 0 to N (one trained block application = 1).
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

Tokens = Int[Array, "B L"]
Segments = Int[Array, "B L"]  # document number within the row, from 1; 0 is padding
TokenTypes = Int[Array, "B L"]  # the kind of each token, from 0
State = Float[Array, "B L D"]  # the residual stream x(t), which the solver integrates
LoopState = Float[Array, "B L SD"]  # the same where S streams run side by side (`model.streams`)
Logits = Float[Array, "B L V"]
Mask = Bool[Array, "#B 1 L L"]  # True where a query (row) may look at a key (column)
Scalar = Float[Array, ""]
Key = jax.Array  # a typed PRNG key
Device = Any  # jax.Device, which type checkers see as a variable
Field = Callable[[Any, Any, Any], Any]  # f(t, x, args) -> dx/dt
