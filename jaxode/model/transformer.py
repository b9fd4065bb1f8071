"""A transformer without a head: embedding -> looped stack over depth -> the state that its heads read."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.depth import Coefficients
from jaxode.model import cost
from jaxode.model.block import Context
from jaxode.model.embedding import Embedding
from jaxode.model.masks import document_mask, prefix_mask, text_places
from jaxode.model.room import check_memory
from jaxode.model.rotary import rotary_angles
from jaxode.model.stack import Stack, StackOutput
from jaxode.types import Key, Segments, State, Tokens, TokenTypes

FULL_DEPTH = DepthConfig()


class Transformer(nnx.Module):
    """Embedding and stack, shared by every whole model; `hidden` gives x(N)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        """`dtype` is the type of the matmuls; parameters and the state are float32."""
        check_memory(config)
        self.config = config
        self.calibrations: dict[int, Coefficients] = nnx.data({})
        """Coefficients of solver "calibrated", by number of steps; `Architecture.bind` fills it."""
        self.embedding = Embedding(config, rngs=rngs, dtype=dtype)
        self.stack = Stack(config, rngs=rngs, dtype=dtype)

    def hidden(
        self,
        tokens: Tokens,
        depth: DepthConfig = FULL_DEPTH,
        *,
        segments: Segments | None = None,
        token_types: TokenTypes | None = None,
        places: Int[Array, "B L"] | None = None,
        key: Key | None = None,
        coefficients: Coefficients | None = None,
        trace: bool = False,
    ) -> StackOutput:
        """x(N) for a batch of tokens.

        Args:
            tokens: ids below the vocabulary size.
            depth: solver, steps and schedule; static under `jax.jit`. Solver "auto" is what `resolve` says.
            segments: keeps attention within rows' documents (numbers from 1, 0 is padding); None: everything is seen.
                With one document a row this is a padding mask: 1 for a real token, 0 for one that no query looks at.
            token_types: the kind of each token, for a model with `token_types`; None: all of kind 0.
            places: of the tokens in their sequences, where several stand in a row; None: `start` says.
            key: turns dropout on.
            coefficients: of solver "calibrated" (or "auto", which then is), in place of those in `calibrations`; may be
                traced and differentiated.
            trace: also return the trajectory.
        """
        x0, context = self.start(tokens, segments=segments, token_types=token_types, key=key, places=places)
        if coefficients is None:
            depth = self.resolve(depth)
            coefficients = self.coefficients(depth)
        return self.stack(x0, depth, context, coefficients=coefficients, trace=trace)

    def start(
        self,
        tokens: Tokens,
        *,
        segments: Segments | None = None,
        token_types: TokenTypes | None = None,
        key: Key | None = None,
        places: Int[Array, "B L"] | None = None,
    ) -> tuple[State, Context]:
        """The embedded tokens, and what the blocks read besides the state; arguments as for `hidden`.

        `places` of the tokens in their sequences, where those do not begin at 0. Of a row that is padded on the left
        they are counted from its first real token, so that it is read as it is alone.
        """
        if places is None and segments is not None and self.config.reads_places:
            places = text_places(segments)
        embed_key, block_key = (None, None) if key is None else jax.random.split(key)
        prefix = self.config.attention.prefix
        x0 = self.embedding(tokens, None if prefix else token_types, places=places, key=embed_key)
        mask = None if segments is None else document_mask(segments, causal=self.config.kind == "causal")
        options, rotary, far = self.config.attention, None, None
        if options.prefix:
            seen = prefix_mask(jnp.zeros_like(tokens) if token_types is None else token_types)
            mask = seen if mask is None else mask & seen
        if self.config.positions == "rotary":
            turn = partial(
                rotary_angles,
                tokens.shape[1] if places is None else places,
                self.config.head_width,
                rounded=options.rotary_rounded,
                scaling=options.rotary_scaling,
            )
            rotary = turn(self.config.rotary_base)
            far = turn(options.full_rotary_base) if options.full_rotary_base else None
        return x0, Context(
            mask=mask,
            rotary=rotary,
            x0=x0 if self.config.inject_input else None,
            key=block_key,
            far=far,
            places=places,
        )

    def resolve(self, depth: DepthConfig = FULL_DEPTH) -> DepthConfig:
        """The same depth with its solver named.

        "auto" is "calibrated" where this model holds a calibration for as many steps and the schedule is even, else
        "euler".

        Raises:
            UserError: an unknown solver.
        """
        return cost.resolve(self.config, depth, self.calibrations)

    def coefficients(self, depth: DepthConfig) -> Coefficients | None:
        """Those of `calibrations` that solver "calibrated" takes at this depth; None for another solver.

        Raises:
            UserError: the model is not calibrated for this number of steps.
        """
        depth = self.resolve(depth)
        if depth.solver != "calibrated":
            return None
        steps = self.config.steps if depth.steps is None else depth.steps
        require(
            steps in self.calibrations,
            f'depth.solver = "calibrated" with depth.steps = {steps}: this model is calibrated for '
            f"{', '.join(map(str, self.calibrations)) or 'no number of steps'}; calibrate it for {steps} first",
        )
        return self.calibrations[steps]

    @property
    def matmul_type(self) -> np.dtype:
        """Of the matmuls, and so of the keys and values that tokens leave behind."""
        return jnp.dtype(self.stack.looped[0].attention.qkv.dtype)

    def _share_norm(self, norm: Any) -> None:
        """Give the stack the head's norm, where the coda begins with it."""
        if self.config.loop.exit_norm:
            require(norm is not None, "model.loop.exit_norm = true: this model has no final norm; leave it out")
            self.stack.exit_norm = nnx.data(norm)

    @property
    def num_parameters(self) -> int:
        """Stored parameters: a shared block counts once."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))

    def flops_per_token(self, depth: DepthConfig = FULL_DEPTH, length: int | None = None) -> int:
        """Forward floating-point operations per token at this depth."""
        return cost.flops_per_token(self.config, depth, length).total

    def block_evaluations(self, depth: DepthConfig = FULL_DEPTH) -> int:
        """Applications of a block in one forward pass at this depth."""
        return cost.block_evaluations(self.config, depth)
