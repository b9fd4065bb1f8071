"""Texts of a classifier in batches, and what a bound on the loss or on changed labels is tested on."""

from __future__ import annotations

import numpy as np

from jaxode.checkpoint import TrainedModel
from jaxode.config import InferConfig
from jaxode.data import Batch
from jaxode.inference.tasks.line_tables import BATCH_SIZE, Lines, read_lines
from jaxode.inference.tasks.measured_text import file_text, validation_text
from jaxode.inference.texts.batching import RowBatch, bucket, padded, real_tokens
from jaxode.inference.texts.token_ids import encode_texts


def label_batches(trained: TrainedModel, lines: Lines, config: InferConfig) -> list[Batch]:
    """The texts of a classifier, one a row, in batches of one shape; at most `config.batches` of them."""
    tokenizer, length = trained.own_tokenizer, trained.config.model.length
    size = config.batch_size or BATCH_SIZE
    texts, names = lines.texts[: config.batches * size], lines.names[: config.batches * size]
    encoded = encode_texts(tokenizer, texts, length, truncate=config.truncate, names=names)
    longest = min(bucket(int(encoded.lengths.max())), length)
    batches = []
    for start in range(0, len(texts), size):
        rows = encoded.ids[start : start + size]
        shape = RowBatch(np.arange(len(rows)), min(size, len(texts)), longest)
        tokens, real = padded(rows, shape, tokenizer.pad_id), real_tokens(rows, shape)
        batches.append(Batch(tokens, tokens, real.astype(np.float32), real))
    return batches


def bound_batches(trained: TrainedModel, config: InferConfig) -> list[Batch]:
    """The text that a bound on the loss or on changed labels is tested on."""
    if trained.task == "classifier":
        return label_batches(
            trained, read_lines(config.bound_file, trained.config.data.text_key, classified=True), config
        )
    if config.bound_file:
        return list(file_text(trained, config.bound_file, config.batches).batches)
    remedy = "name one with --bound-file, or choose the depth with --steps or --budget"
    return list(validation_text(trained, config.batches, remedy).batches)
