"""The cache over depth: which slot each application of a block reads and writes, and how the slots grow.

Slots belong to the applications of one solve. Another solve of the same weights, in more or fewer steps, finds the slot
of each of its own applications by depth-time: the nearest of the same block, the earlier of two.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.config.decoding import cache_rule
from jaxode.depth import get_solver
from jaxode.inference.texts.batching import bucket
from jaxode.model import plan, resolve
from jaxode.model.memory import Slot

ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Application:
    """One application of a block in a solve."""

    part: str
    """prelude | loop | coda."""
    block: int
    """Which of the stored blocks of this part."""
    time: float
    """Depth-time of its group; 0 outside of the loop."""
    turn: int = 0
    """Which of its block's applications within one evaluation of the field."""


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
            for stage in spec.stage_times:
                turns: Counter[int] = Counter()
                for block in model.pass_blocks:
                    found.append(Application("loop", group * each + block, start + stage * size, turns[block]))
                    turns[block] += 1
    return (*found, *(Application("coda", block, 0.0) for block in range(model.coda)))


def nearest(kept: tuple[Application, ...], asked: tuple[Application, ...]) -> tuple[int, ...]:
    """For each application asked for, which of `kept` stands for it."""
    if kept == asked:
        # stages of neighbouring steps may lie at the same time
        return tuple(range(len(kept)))
    found = []
    for own in asked:
        place = (own.part, own.block, own.turn)
        same = [i for i, other in enumerate(kept) if (other.part, other.block, other.turn) == place]
        found.append(min(same, key=lambda i: (abs(kept[i].time - own.time), kept[i].time)))
    return tuple(found)


@dataclass(frozen=True)
class Layout:
    """Which slots there are, for a solve as `depth` says. Static under `jax.jit`.

    A loop reads its own keys and values of a token that is read now, and of the tokens before it (p counts the
    applications of one block from 0, one a loop where a solver has one stage):

        loop        its own, from a slot for every p: exact
        last        those of the last p, from one slot
        first       those of p = 0, from one slot; a later loop's are read once, by the tokens read now, and forgotten
        modulo:k    those of the last application whose p leaves the same rest by k, from k slots

    With `share` > 1 so many neighbouring applications of one block have a slot together, with 0 all of them (as last):
    the last one's keys and values stay. All but "loop" divide the memory, and are no longer what the model was trained
    to read, unless it says so itself (`model.loop.cache`). Prompts are read as a whole, every loop its own keys and
    values; what is dropped of them matters to the tokens that follow.
    """

    depth: DepthConfig
    share: int = 1
    cache: str = "loop"

    def __post_init__(self) -> None:
        require(self.share >= 0, f"cache_share = {self.share}: must be at least 0 (0: one slot for all steps)")
        cache_rule(self.cache)

    @property
    def first(self) -> bool:
        """Whether of the applications that share a slot the first one's keys and values stay, not the last one's."""
        return self.cache == "first"

    def _slot(self, place: int) -> int:
        """The slot of a block's application p, counted by block."""
        name, number = cache_rule(self.cache)
        if name == "modulo":
            return place % number
        return 0 if name in ("last", "first") or not self.share else place // self.share

    def order(self, model: ModelConfig) -> tuple[int, ...]:
        """The slot of each application of the layout's own solve."""
        counts: dict[tuple[str, int], int] = {}
        groups: dict[tuple[str, int, int], int] = {}
        order = []
        for one in applications(model, self.depth):
            place = counts.setdefault((one.part, one.block), 0)
            counts[one.part, one.block] += 1
            key = (one.part, one.block, self._slot(place))
            order.append(groups.setdefault(key, len(groups)))
        return tuple(order)

    def order_of(self, model: ModelConfig, depth: DepthConfig) -> tuple[int, ...]:
        """The slot of each application of another solve."""
        own = self.order(model)
        return tuple(own[i] for i in nearest(applications(model, self.depth), applications(model, depth)))

    def sources(self, model: ModelConfig, depth: DepthConfig) -> tuple[int, ...]:
        """For each slot, the application of a solve at `depth` that fills it."""
        kept: dict[int, int] = {}
        for i, slot in enumerate(self.order(model)):
            kept[slot] = kept.get(slot, i) if self.first else i
        found = nearest(applications(model, depth), applications(model, self.depth))
        return tuple(found[kept[slot]] for slot in sorted(kept))


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
    """Memory of the slots of `rows` rows of `tokens` tokens, with numbers of `itemsize` bytes."""
    return rows * bucket(tokens) * _token_bytes(model, layout, itemsize)


def cache_bytes_per_token(
    model: ModelConfig,
    depth: DepthConfig | None = None,
    *,
    cache: str = "auto",
    cache_share: int = 1,
    dtype: str = "bfloat16",
) -> int:
    """Memory that the cache takes for each token of a text: keys and values of all its slots.

    2 x slots x key/value heads x head width x bytes of a number; with a slot for every loop there are as many slots as
    applications of a block. Weights need not be at hand: `jaxode.interop.model_config` reads a folder's configuration.

    Args:
        model: heads, and how often its blocks are applied.
        depth: of every new token; full depth when None.
        cache: as for `generate_batch`.
        cache_share: as for `generate_batch`.
        dtype: of the matmuls: float32 or bfloat16.

    Raises:
        UserError: an unknown cache or type, or a depth that does not fit the layout.
    """
    require(dtype in ITEM_BYTES, f'dtype = "{dtype}": allowed are {", ".join(ITEM_BYTES)}')
    cache_rule(cache, cache_share)
    layout = Layout(resolve(model, depth or DepthConfig()), cache_share, resolved_cache(model, cache, cache_share))
    return _token_bytes(model, layout, ITEM_BYTES[dtype])


def resolved_cache(model: ModelConfig, cache: str, share: int) -> str:
    """What "auto" means; with slots that neighbours share there is nothing to choose."""
    return model.loop.cache if cache == "auto" and share == 1 else cache


def _token_bytes(model: ModelConfig, layout: Layout, itemsize: int) -> int:
    return 2 * len(set(layout.order(model))) * model.num_kv_heads * model.head_width * itemsize


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
