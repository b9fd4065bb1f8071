"""Choices of a model's parts beyond the plain ones: attention, loop, clock, sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxode.config.checks import at_least, at_most, require
from jaxode.config.fields import check_fields


@dataclass(frozen=True)
class AttentionConfig:
    """What of attention is not in every transformer."""

    head_width: int = 0
    """K, the width of a head; 0 means width / heads."""
    norm: Literal["none", "whole", "unit"] = "none"
    """Of queries and keys before the rotation: whole: a norm with weights over all heads (OLMo 2); unit: each head onto
    the unit sphere, queries with a scale a channel after the rotation (nGPT)."""
    gate: bool = False
    """Multiply the result by sigmoid(x W_g), channel by channel, before the output projection."""
    rotary_pairs: Literal["halves", "neighbours"] = "halves"
    """Which channels turn together: i and i + K/2, or 2i and 2i + 1."""
    rotary_rounded: bool = False
    """Round the frequencies to bfloat16, as some models were trained."""
    rotary_scaling: tuple[float, ...] = ()
    """Slower rotations for texts longer than those of pre-training: factor, low and high frequency factor, length of
    pre-training (Llama 3.1); empty: none."""
    window: int = 0
    """Tokens that a token reads at most, itself among them; 0: all."""
    full_layers: tuple[int, ...] = ()
    """Blocks without the window, counted from 0 through prelude, looped blocks and coda."""
    full_rotary_base: float = 0.0
    """Rotary base of these blocks; 0 means rotary_base."""
    prefix: bool = False
    """Tokens of type 1 (`token_types`) read each other both ways; the rest of a causal model stays causal."""

    def __post_init__(self) -> None:
        check_fields(self, "model.attention")
        for name in ("head_width", "window", "full_rotary_base"):
            at_least(f"model.attention.{name}", getattr(self, name), 0)
        require(
            self.window > 0 or not (self.full_layers or self.full_rotary_base),
            "model.attention.full_layers and full_rotary_base tell blocks without the window from those with one: set "
            "model.attention.window, or leave them out",
        )
        require(
            len(self.rotary_scaling) in (0, 4),
            f"model.attention.rotary_scaling = {list(self.rotary_scaling)}: must be four numbers (factor, low and high "
            "frequency factor, length of pre-training), or empty",
        )
        require(
            not self.rotary_scaling
            or (min(self.rotary_scaling) > 0 and self.rotary_scaling[1] < self.rotary_scaling[2]),
            f"model.attention.rotary_scaling = {list(self.rotary_scaling)}: must be positive, the low frequency factor "
            "below the high one",
        )


@dataclass(frozen=True)
class LoopConfig:
    """One pass of the looped part, besides its blocks: y = boundary(blocks(injection(x)))."""

    start: Literal["entered", "noise", "zeros"] = "entered"
    """The state at t = 0: what the prelude gives, noise (by `depth.start_seed` and a token's place), or 0."""
    start_size: float = 0.6324555320336759
    """Standard deviation of the noise before it is cut off at three of them; the root of 2/5 (Geiping et al. 2025)."""
    injection: Literal["none", "concat", "unit_sum"] = "none"
    """What a pass reads besides the state x, of the prelude's result e: concat: [x; e] W; unit_sum: U(x) + U(e) with
    U(x) = x / |x|. (`model.inject_input` adds the embedding through a gate.)"""
    boundary: str = "none"
    """How a pass ends. norm: in the final norm, and the next one begins from there; or the name that a plug-in brings
    (`--plugins`)."""
    exit_norm: bool = False
    """Put the final norm before the coda as well."""
    exit_gate: bool = False
    """A probability to leave after each pass, read from the state (Ouro)."""
    low_cycles: int = 0
    """Above 0 two states run at two speeds (HRM): a pass is so many times z_L <- A(z_L + z_H), then once
    z_H <- B(z_H + z_L), with `inner_blocks` blocks each in A and B. z_H starts at what was entered, z_L at a stored
    vector; z_H is read."""
    streams: int = 1
    """Above 1 so many residual streams run beside each other (hyper-connections, Zhu et al. 2024): a pass reads a
    weighted sum of them, adds its increment to each with a weight, and mixes them by a small matrix; with
    `model.conditioning` all of these are told t. 2 to 4 are usual."""
    schedule: Literal["even", "unit"] = "even"
    """What `depth.schedule = "auto"` means: even steps over [0, N], or n steps of size 1."""
    cache: Literal["loop", "last"] = "loop"
    """What `cache = "auto"` of generation means: a slot for each loop, or one in which the last loop's keys and values
    stay, where the model was trained to read those (Dory)."""

    def __post_init__(self) -> None:
        check_fields(self, "model.loop")
        at_least("model.loop.low_cycles", self.low_cycles, 0)
        at_least("model.loop.streams", self.streams, 1)
        at_most("model.loop.streams", self.streams, 16)
        require(self.start_size >= 0, f"model.loop.start_size = {self.start_size}: must be at least 0")
        require(
            self.start == "noise" or self.start_size == LoopConfig.start_size,
            f'model.loop.start_size = {self.start_size} with model.loop.start = "{self.start}": it is that of "noise"; '
            "leave it out",
        )
        require(
            self.low_cycles == 0 or (self.injection, self.start) == ("none", "entered"),
            f'model.loop.low_cycles = {self.low_cycles} with model.loop.injection = "{self.injection}", start = '
            f'"{self.start}": two states have rules of their own; leave both at their defaults',
        )
        require(
            self.low_cycles == 0 or self.streams == 1,
            f"model.loop.low_cycles = {self.low_cycles} with model.loop.streams = {self.streams}: two states run at "
            "two speeds already; leave one of them out",
        )


@dataclass(frozen=True)
class ClockConfig:
    """How conditioned blocks read t and h."""

    features: int = 64
    """Sinusoids of each."""
    width: int = 0
    """Of the code that is made of them, which everything told is a linear map of; 0: D."""
    shared: bool = False
    """One pair of embeddings for all blocks, instead of one a block."""
    unit: bool = False
    """Read t/N and h/N, with frequencies 10000^(-2k/features) (LoopFormer), instead of periods from 2 to 4 N."""
    rank: int = 0
    """R: above 0 the blocks' matrices W are told t and h as well, W + A diag(s(t, h)) B with B from 0; behind the norms
    of a post-norm block a scale and a shift are told beside them."""
    per_pass: bool = False
    """Divide the increment of a pass by h: it stands for the whole step, whatever h. With conditioning "step" a block
    that was trained at h = 1 is then applied n times as it is, and has to learn what a longer step is; with
    "loopformer" its sublayers read each other's increments in full, where else each is divided by itself."""
    anchored: bool = False
    """Multiply what is told by 1 - 1/h: a step of the trained size h = 1, or a shorter one, is told nothing, and what
    is told beside frozen weights leaves the full depth exactly as it was."""

    def __post_init__(self) -> None:
        check_fields(self, "model.clock")
        require(
            self.features >= 2 and self.features % 2 == 0,
            f"model.clock.features = {self.features}: must be an even number of at least 2",
        )
        at_least("model.clock.width", self.width, 0)
        at_least("model.clock.rank", self.rank, 0)


@dataclass(frozen=True)
class SphereConfig:
    """How learned scales of a model on the unit sphere are stored: s_stored * s_init / size (nGPT, section 2.6)."""

    size: float = 0.0177
    """Initial value of the stored scales."""
    rate: float = 0.05
    """Initial rate at which the stream moves towards a branch."""

    def __post_init__(self) -> None:
        check_fields(self, "model.sphere")
        for name in ("size", "rate"):
            require(getattr(self, name) > 0, f"model.sphere.{name} = {getattr(self, name)}: must be positive")
