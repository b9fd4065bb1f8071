"""The cache over depth: which slot each application of a block reads and writes, and how the slots grow.

Slots belong to the applications of one solve. Another solve of the same weights, in more or fewer steps, finds the slot
of each of its own applications by depth-time: the nearest of the same block, the earlier of two.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.depth import get_solver
from jaxode.inference.texts.batching import bucket
from jaxode.model import plan, resolve
from jaxode.model.memory import Slot


@dataclass(frozen=True)
class Application:
    """One application of a block in a solve."""

    part: str
    """prelude | loop | coda."""
    block: int
    """Which of the stored blocks of this part."""
    time: float
    """Depth-time of its group; 0 outside of the loop."""


def applications(model: ModelConfig, depth: DepthConfig) -> tuple[Application, ...]:
    """Every application of a block in a solve, in order.

    Raises:
        UserError: a solver that chooses its own steps, or a depth that does not fit the layout.
    """
    spec = get_solver(resolve(model, depth).solver)
    require(
        not spec.adaptive,
        f'depth.solver = "{depth.solver}" chooses its own steps, so no cache fits it: use a fixed-step solver',
    )
    found = [Application("prelude", block, 0.0) for block in range(model.prelude)]
    if model.sharing == "none":
        found += [Application("loop", block, 0.0) for block in range(model.distinct_blocks)]
    each = model.inner_blocks * (model.groups if model.sharing == "cycle" else 1)
    for group, schedule in enumerate(plan(model, depth)):
        for start, size in zip(schedule.times, schedule.sizes, strict=False):
            for stage, block in itertools.product(spec.stage_times, model.pass_blocks):
                found.append(Application("loop", group * each + block, start + stage * size))
    return (*found, *(Application("coda", block, 0.0) for block in range(model.coda)))


def nearest(kept: tuple[Application, ...], asked: tuple[Application, ...]) -> tuple[int, ...]:
    """For each application asked for, which of `kept` stands for it."""
    if kept == asked:
        # stages of neighbouring steps may lie at the same time
        return tuple(range(len(kept)))
    found = []
    for own in asked:
        same = [i for i, other in enumerate(kept) if (other.part, other.block) == (own.part, own.block)]
        found.append(min(same, key=lambda i: (abs(kept[i].time - own.time), kept[i].time)))
    return tuple(found)


@dataclass(frozen=True)
class Layout:
    """Which slots there are, for a solve as `depth` says. Static under `jax.jit`.

    With `share` > 1 so many neighbouring applications of one block have a slot together, with 0 all of them: the last
    one's keys and values stay. That divides the memory, and is no longer what the model was trained to read.
    """

    depth: DepthConfig
    share: int = 1

    def __post_init__(self) -> None:
        require(self.share >= 0, f"cache_share = {self.share}: must be at least 0 (0: one slot for all steps)")

    def order(self, model: ModelConfig) -> tuple[int, ...]:
        """The slot of each application of the layout's own solve."""
        counts: dict[tuple[str, int], int] = {}
        groups: dict[tuple[str, int, int], int] = {}
        order = []
        for one in applications(model, self.depth):
            place = counts.setdefault((one.part, one.block), 0)
            counts[one.part, one.block] += 1
            key = (one.part, one.block, place // self.share if self.share else 0)
            order.append(groups.setdefault(key, len(groups)))
        return tuple(order)

    def order_of(self, model: ModelConfig, depth: DepthConfig) -> tuple[int, ...]:
        """The slot of each application of another solve."""
        own = self.order(model)
        return tuple(own[i] for i in nearest(applications(model, self.depth), applications(model, depth)))

    def sources(self, model: ModelConfig, depth: DepthConfig) -> tuple[int, ...]:
        """For each slot, the application of a solve at `depth` that fills it."""
        last = {slot: i for i, slot in enumerate(self.order(model))}
        found = nearest(applications(model, depth), applications(model, self.depth))
        return tuple(found[last[slot]] for slot in sorted(last))


@no_type_check  # JAX rebuilds pytrees with leaves of any kind
@struct.dataclass
class Past:
    """What a batch has read.

    Attributes:
        slots: of T tokens each.
        end: by row, the slots' place behind its newest token; what lies there and further on is nothing.
        start: by row, the slots' first place that is read: of the row's text, or of its last document.
        first: by row, the place in its text of the token at the slots' place 0.
    """

    slots: tuple[Slot, ...]
    end: Int[Array, " B"]
    start: Int[Array, " B"]
    first: Int[Array, " B"]

    @property
    def capacity(self) -> int:
        """T."""
        return self.slots[0].keys.shape[1]


def cache_bytes(model: ModelConfig, layout: Layout, rows: int, tokens: int, itemsize: int = 4) -> int:
    """Memory of the slots of `rows` rows of `tokens` tokens."""
    slots = len(set(layout.order(model)))
    return 2 * slots * rows * bucket(tokens) * model.num_kv_heads * model.head_width * itemsize


@partial(jax.jit, static_argnames="capacity")
def move(past: Past, end: Int[Array, ""], *, capacity: int) -> Past:
    """The same in slots of `capacity` tokens, the newest token of every row before place `end`.

    What lay more than `end` tokens back is forgotten.
    """
    back = past.end - end
    index = jnp.clip(jnp.arange(capacity) + back[:, None], 0, past.capacity - 1)

    def moved(table: Float[Array, "B_heads T K"]) -> Float[Array, "B_heads capacity K"]:
        return jnp.take_along_axis(table, jnp.repeat(index, len(table) // len(index), axis=0)[..., None], axis=1)

    ends, start = jnp.full_like(past.end, end), jnp.maximum(past.start - back, 0)
    return Past(jax.tree.map(moved, past.slots), ends, start, past.first + back)
