"""Vocabularies that are made here: of bytes, and of pieces of a text (BPE)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tokenizers as hf
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from jaxode.config import require
from jaxode.data.tokenizers import Tokenizer

END, PAD, MASK = "<|endoftext|>", "<|pad|>", "[MASK]"

WORD_BYTES = 1024
"""The trainer of a vocabulary reads longer words, as in text without spaces, in pieces of so many bytes."""


def train_bpe(texts: Iterable[str] | Iterator[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in Radford et al. 2019, section 2.2).

    Any text survives encoding and decoding unchanged. On a small corpus V can be smaller than `vocab_size`.
    """
    require(vocab_size >= 259, f"vocab_size = {vocab_size}: must be at least 259 (256 bytes and 3 special tokens)")
    model = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_specials(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = model.pre_tokenizer
    # the trainer's time grows with the square of a word; encoding does not need the bound, so the model goes without
    model.pre_tokenizer = bounded_words()
    model.train_from_iterator(texts, trainer)
    model.pre_tokenizer = words
    return _with_roles(model, f"bpe-{model.get_vocab_size()}")


def bounded_words() -> pre_tokenizers.PreTokenizer:
    """The words of a byte-level vocabulary, and those longer than `WORD_BYTES` in pieces."""
    pieces = pre_tokenizers.Split(Regex(f".{{{WORD_BYTES}}}"), "isolated")
    return pre_tokenizers.Sequence([_words(), pieces])  # pyright: ignore


def byte_tokenizer() -> Tokenizer:
    """The 256 bytes as vocabulary, and the special tokens: V = 259."""
    model = _byte_level(models.BPE(vocab={}, merges=[]))
    trainer = trainers.BpeTrainer(
        vocab_size=259,
        special_tokens=_specials(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([], trainer)
    return _with_roles(model, "bytes")


def _byte_level(model: models.BPE) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(model)
    tokenizer.pre_tokenizer = _words()  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    return tokenizer


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _specials() -> list[str | hf.AddedToken]:
    # the mask swallows the space before it, because an ordinary token of this kind of vocabulary begins with its space
    return [END, PAD, hf.AddedToken(MASK, lstrip=True, normalized=False, special=True)]


def _with_roles(model: hf.Tokenizer, name: str) -> Tokenizer:
    end, pad, mask = (model.token_to_id(token) for token in (END, PAD, MASK))
    assert end is not None
    assert pad is not None
    return Tokenizer(model, name, end_id=end, mask_id=mask, pad_id=pad)
