"""Text to batches. Names load on first use, so that reading a config or a tokenizer imports no jax."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.data.batches import Batch, Batches, BatchSpec, ValidationBatches, make_batch
    from jaxode.data.byte_level import byte_tokenizer, train_bpe
    from jaxode.data.corpora import Corpus, open_corpus
    from jaxode.data.packing import Row, pack, segments, unpack
    from jaxode.data.prepared import PreparedData, ScoredText, SplitStats, prepare, text_batches
    from jaxode.data.pretrained_tokenizers import from_pretrained
    from jaxode.data.tokenizers import Tokenizer

_HOMES = {
    "batches": ("Batch", "BatchSpec", "Batches", "ValidationBatches", "make_batch"),
    "corpora": ("Corpus", "open_corpus"),
    "packing": ("Row", "pack", "segments", "unpack"),
    "prepared": ("PreparedData", "ScoredText", "SplitStats", "prepare", "text_batches"),
    "pretrained_tokenizers": ("from_pretrained",),
    "byte_level": ("byte_tokenizer", "train_bpe"),
    "tokenizers": ("Tokenizer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "BatchSpec",
    "Batches",
    "Corpus",
    "PreparedData",
    "Row",
    "ScoredText",
    "SplitStats",
    "Tokenizer",
    "ValidationBatches",
    "byte_tokenizer",
    "from_pretrained",
    "make_batch",
    "open_corpus",
    "pack",
    "prepare",
    "segments",
    "text_batches",
    "train_bpe",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"jaxode.data.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
