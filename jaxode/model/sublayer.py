"""A sublayer as a residual increment: read the stream, run the branch, write. What differs is the residual rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxode.model.conditioning import Conditioning, Modulation, time_by_row
from jaxode.model.layers import dropout
from jaxode.types import State

if TYPE_CHECKING:
    from jaxode.model.block import Context

Norm = Callable[[Any], Any]


@runtime_checkable
class ResidualRule(Protocol):
    """How a branch S is placed on the stream x."""

    def read(self, x: State) -> State:
        """What the branch gets to see."""
        ...

    def write(self, x: State, branch: State) -> State:
        """The increment, in the type of x."""
        ...


@dataclass(frozen=True)
class PreNorm:
    """x + S(norm x): the stream itself is free."""

    norm: Norm

    def read(self, x: State) -> State:
        """Norm x."""
        return self.norm(x)

    def write(self, x: State, branch: State) -> State:
        """S."""
        return branch.astype(x.dtype)


@dataclass(frozen=True)
class PostNorm:
    """norm(x + S(x)), as ALBERT."""

    norm: Norm

    def read(self, x: State) -> State:
        """The stream as it is."""
        return x

    def write(self, x: State, branch: State) -> State:
        """norm(x + S) - x."""
        return self.norm(x + branch).astype(x.dtype) - x


@dataclass(frozen=True)
class Sandwich:
    """x + out S(norm x): the stream is free, and no branch is larger than its own norm lets it be (Ouro)."""

    norm: Norm
    out: Norm

    def read(self, x: State) -> State:
        """Norm x."""
        return self.norm(x)

    def write(self, x: State, branch: State) -> State:
        """Out S."""
        return self.out(branch).astype(x.dtype)


@dataclass(frozen=True)
class BranchNorm:
    """x + norm S(x), as OLMo 2."""

    norm: Norm

    def read(self, x: State) -> State:
        """The stream as it is."""
        return x

    def write(self, x: State, branch: State) -> State:
        """Norm S."""
        return self.norm(branch).astype(x.dtype)


@dataclass(frozen=True)
class NormOfSum:
    """out(x + S(norm x)), as Huginn: read and stream are normalised."""

    norm: Norm
    out: Norm

    def read(self, x: State) -> State:
        """Norm x."""
        return self.norm(x)

    def write(self, x: State, branch: State) -> State:
        """out(x + S) - x."""
        return self.out(x + branch).astype(x.dtype) - x


@dataclass(frozen=True)
class Sphere:
    """U(x) + |a| (U(S(U x)) - U(x)): a step along the unit sphere towards the branch (Loshchilov et al. 2024, nGPT)."""

    norm: Norm
    rate: Callable[[], Float[Array, " D"]]

    def read(self, x: State) -> State:
        """U(x)."""
        return self.norm(x)

    def write(self, x: State, branch: State) -> State:
        """What it says, less x."""
        base = self.norm(x)
        return (base + jnp.abs(self.rate()) * (self.norm(branch) - base) - x).astype(x.dtype)


@dataclass(frozen=True)
class Sublayer:
    """One of a block's two sublayers: everything around its branch, once for both."""

    number: int
    """ATTENTION or FEED_FORWARD: its place in gains, modulations and dropout keys."""
    rule: ResidualRule
    conditioning: Conditioning | None
    rate: float
    """Of dropout on the branch."""

    def increment(
        self, branch: Callable[[State], State], t: Any, x: State, context: Context, source: State | None = None
    ) -> State:
        """The sublayer's share of f(t, x); the branch reads `source` where that is not the stream itself."""
        read = self.rule.read(x if source is None else source)
        modulation = self._modulation(t, context)
        if modulation is not None:
            read = (read * (1.0 + modulation.scale)).astype(read.dtype)
        if context.gains is not None:
            read = context.gains.read(read, self.number)
        written = self._drop(branch(read), t, context)
        if modulation is not None:
            written = (written * modulation.gate).astype(written.dtype)
        return self.rule.write(x, written)

    def _modulation(self, t: Any, context: Context) -> Modulation | None:
        if self.conditioning is None:
            return None
        return self.conditioning(time_by_row(t), context.size, self.number, context.code)

    def _drop(self, branch: Float[Array, "B L D"], t: Any, context: Context) -> Float[Array, "B L D"]:
        if context.key is None or self.rate == 0.0:
            return branch
        # The mask is a function of t, so f stays a field and the backward pass recomputes the same one.
        bits = jax.lax.bitcast_convert_type(jnp.float32(t), jnp.uint32)
        return dropout(branch, self.rate, jax.random.fold_in(jax.random.fold_in(context.key, bits), self.number))
