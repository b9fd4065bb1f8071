"""Whether a batch fits into memory, told before anything is compiled."""

from __future__ import annotations

from jaxode.config import ModelConfig, UserError
from jaxode.inference.texts.batching import RowBatch
from jaxode.machine import available_memory, gigabytes


def row_bytes(model: ModelConfig, length: int, predicted: int) -> int:
    """Bytes of float32 that a forward pass holds for one row at its widest place: a sublayer, or the head.

    Args:
        model: D, H, F and V.
        length: L of the row.
        predicted: positions of the row that get logits over the vocabulary.
    """
    fused = (model.heads + 2 * model.num_kv_heads) * model.head_width
    attention = length * (fused + 2 * model.width) + 2 * model.heads * length * length
    gates = 2 if model.feed_forward == "swiglu" else 1
    feed_forward = length * (1 + gates) * model.hidden_width
    head = predicted * model.vocab_size
    return 4 * (3 * length * model.width + max(attention, feed_forward, head))


def check_memory(model: ModelConfig, batch: RowBatch, predicted: int | None) -> None:
    """Refuse the largest batch of a run before anything is compiled or allocated.

    Args:
        model: of the run.
        batch: its largest batch.
        predicted: positions of a row that get logits over the vocabulary; None is all.

    Raises:
        UserError: more bytes than are available, with both numbers and the batch size that would do.
    """
    free, row = available_memory(), row_bytes(model, batch.length, batch.length if predicted is None else predicted)
    if free is None or batch.size * row <= free:
        return
    most = free // row
    remedy = f"use a batch size of {most} or less (--batch-size)" if most else "use shorter texts or another machine"
    raise UserError(
        f"a batch of {batch.size} rows of {batch.length} tokens takes about {gigabytes(batch.size * row)} of "
        f"activations and logits, {gigabytes(free)} are available: {remedy}"
    )


def check_cache(needed: int, rows: int) -> None:
    """Refuse a cache of `rows` rows and so many bytes before anything is compiled or allocated.

    Raises:
        UserError: more bytes than are available.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise UserError(
            f"the cache of {rows} rows takes {gigabytes(needed)}, {gigabytes(free)} are available: continue fewer "
            "prompts at once, or share slots (cache, cache_share)"
        )
