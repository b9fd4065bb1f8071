"""Whether a training run fits into memory, told before anything is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxode.config import Config, UserError
from jaxode.config.size import num_parameters
from jaxode.machine import available_memory, gigabytes
from jaxode.model.kernels import attention_kernel, capability
from jaxode.model.room import check_memory as check_model


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
    rows = -(-train.batch_size // (train.accumulate * shares))
    shape = (rows, model.length, model.heads, model.head_width)
    q = jax.ShapeDtypeStruct(shape, jnp.dtype(train.precision))
    masked = config.data.document_mask or model.kind == "masked"
    kernel = attention_kernel(q, q, masked=masked, causal=model.kind == "causal", capability=capability())
    scores = 0 if kernel == "cudnn" else model.heads * model.length
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
