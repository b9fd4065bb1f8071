"""What an update takes of a device's memory, told before it is compiled; what cannot fit is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxode.config import Config, DepthConfig, UserError, parse_counts
from jaxode.config.size import num_parameters
from jaxode.machine import available_memory, gigabytes, readable
from jaxode.model import plan
from jaxode.model.kernels import attention_kernel, capability
from jaxode.model.room import check_memory as check_model
from jaxode.training.step import TrainState


def update_bytes(config: Config, shares: int) -> int:
    """Bytes that an update holds on each device at the very least.

    Parameters, where all of them train their gradient and one momentum, and the teacher's where there is one (of all
    that a device's part where devices share a copy, and during the solve the whole parameters and their gradient); the
    batch; and of the rows that a device solves at once the logits, the state at every step, and one block's attention
    scores where they are written out.

    Args:
        config: of the run; a vocabulary of 0 has no logits.
        shares: devices that a micro-batch is dealt out to.
    """
    model, train = config.model, config.train
    rows, scores = _rows(config, shares), _scores(config, shares)
    token = (model.vocab_size if model.head == "vocabulary" else 0) + model.steps * model.width + scores
    batch = 4 * train.batch_size // shares * model.length
    moving = 3 if train.trains == "all" else 1
    sets = moving + (config.objective.resolved.teacher == "init")
    mesh, count = train.mesh, num_parameters(model)
    kept = sets * count // (mesh.fsdp * mesh.tensor)
    solved = count * (1 + (train.trains == "all")) // mesh.tensor if mesh.fsdp > 1 else 0
    return 4 * (kept + solved + batch + rows * model.length * token)


def check_memory(config: Config, shares: int) -> None:
    """Refuse a run that cannot fit.

    Raises:
        UserError: more bytes than are available, with both numbers and the fields to make smaller.
    """
    model, train = config.model, config.train
    check_model(model)
    needed, free = update_bytes(config, shares), available_memory()
    if free is not None and needed > free:
        raise UserError(
            f"an update takes at least {gigabytes(needed)}, {gigabytes(free)} are available: make "
            f"train.batch_size = {train.batch_size}, model.length = {model.length}, model.steps = {model.steps} or the "
            f"{num_parameters(model):,} parameters smaller, or train.accumulate = {train.accumulate} larger"
        )


@dataclass(frozen=True)
class UpdateMemory:
    """Bytes that an update is expected to take on each device, by what they hold."""

    parameters: int
    optimizer: int
    teacher: int
    batch: int
    gradients: int
    """Of all parameters; where devices share a copy, with the copy that is put together for the solve."""
    states: int
    """What the solve keeps for its way back: x at some of its steps or at all of them, and what the adjoint adds."""
    block: int
    """Its intermediate results while a block is computed again, and the gradients that it adds up over depth."""
    logits: int
    """With their gradient; they are gone when the way back through the blocks begins."""

    @property
    def total(self) -> int:
        """At the fullest moment."""
        kept = self.parameters + self.optimizer + self.teacher + self.batch + self.gradients + self.states
        return kept + max(self.block, self.logits)

    def __str__(self) -> str:
        named = {"parameters": self.parameters, "optimizer": self.optimizer, "teacher": self.teacher}
        named |= {"gradients": self.gradients, "states of the solve": self.states}
        named |= {"a block" if self.block > self.logits else "logits": max(self.block, self.logits)}
        return ", ".join(f"{name} {readable(size)}" for name, size in named.items() if size)


def estimate(config: Config, depth: DepthConfig, shares: int, state: TrainState) -> UpdateMemory:
    """What an update takes on each device.

    A block's intermediate results are counted as XLA keeps them: of a token three times the hidden units, twice
    queries, keys and values, four times the stream, and two tables of scores.

    Args:
        config: of the run, with its vocabulary.
        depth: as it is solved.
        shares: devices that a micro-batch is dealt out to.
        state: placed on its devices, or shapes of it.
    """
    model, train, mesh = config.model, config.train, config.train.mesh
    trained, tensor = train.trains == "all", mesh.tensor
    tokens = _rows(config, shares) * model.length
    stream = 4 * tokens * model.width * model.loop.streams
    fused, hidden = model.matrices[0][1], model.matrices[2][1]
    kept_names = tokens * (fused + model.heads * model.head_width) // tensor * jnp.dtype(train.precision).itemsize
    work = 4 * tokens * ((3 * hidden + 2 * fused + 2 * _scores(config, shares)) // tensor + 4 * model.width)

    whole = sum(x.size * x.dtype.itemsize for x in state.params.values())
    blocks = sum(x.size * x.dtype.itemsize for name, x in state.params.items() if name.startswith("stack."))
    copies = whole - blocks + blocks // tensor
    times = [model.steps if depth.steps is None else depth.steps]
    _, short = parse_counts(config.objective.resolved.short)
    times += [max(short)] if short else [times[0] // 2] if config.objective.resolved.short else []
    loops = model.sharing != "none" and depth.adjoint != "unroll"
    if not loops:
        states = sum(times) * (model.inner_blocks if model.sharing == "none" else len(model.pass_blocks)) * work
    elif depth.adjoint == "nested":
        states = sum(_nested(schedule.steps) for n in times for schedule in _schedules(config, n)) * stream
    else:
        states = sum(times) * (stream + (kept_names * len(model.pass_blocks) if depth.adjoint == "remat" else 0))
    vocabulary = model.vocab_size if model.head == "vocabulary" else 0
    heads = len(times) + len(config.objective.resolved.exit_shares)
    return UpdateMemory(
        parameters=_held(state.params),
        optimizer=_held(state.optimizer),
        teacher=_held(state.teacher),
        batch=4 * 4 * tokens * train.accumulate,
        gradients=copies * (trained + (mesh.fsdp > 1) + (train.accumulate > 1 and trained)),
        states=states + (model.prelude + model.coda) * work,
        block=work + 2 * trained * blocks // tensor if loops else 0,
        logits=heads * 2 * 4 * tokens * (vocabulary + model.width),
    )


def _held(tree: Any) -> int:
    """Bytes of a tree on each device."""
    sizes = ((getattr(x, "sharding", None), x) for x in jax.tree.leaves(tree))
    return sum(math.prod(s.shard_shape(x.shape) if s else x.shape) * x.dtype.itemsize for s, x in sizes)


def _rows(config: Config, shares: int) -> int:
    """Rows that a device solves at once."""
    return -(-config.train.batch_size // (config.train.accumulate * shares))


def _scores(config: Config, shares: int) -> int:
    """Of a token, in all heads; none where no kernel writes them out."""
    model = config.model
    shape = (_rows(config, shares), model.length, model.heads, model.head_width)
    q = jax.ShapeDtypeStruct(shape, jnp.dtype(config.train.precision))
    masked = config.data.apart or model.kind == "masked"
    kernel = attention_kernel(q, q, masked=masked, causal=model.kind == "causal", capability=capability())
    return 0 if kernel == "cudnn" else model.heads * model.length


def _schedules(config: Config, steps: int) -> Any:
    return plan(config.model, DepthConfig(steps=steps))


def _nested(steps: int) -> int:
    """States that "nested" holds at once: where stretches begin, and those of a stretch."""
    length = math.isqrt(steps)
    return -(-steps // length) + length
