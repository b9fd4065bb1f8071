"""Prompts as token ids, and the seeds of their rows, or one clear error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from numbers import Integral
from typing import Any, SupportsIndex

import numpy as np

from jaxode.config import require
from jaxode.config.fields import SEED
from jaxode.data import Tokenizer

Prompt = str | Iterable[SupportsIndex]
"""A text, or token ids: a list, a tuple, an array of one axis. Numbers of NumPy and JAX are no `int`."""
SEEDS = SEED.value + 1
"""Seeds that JAX tells apart: of larger ones it cuts what is above."""


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of Python or NumPy; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def encode_prompts(tokenizer: Tokenizer, prompts: Iterable[Prompt], chat: bool = False) -> list[list[int]]:
    """Token ids of several prompts.

    Raises:
        UserError: one string in place of several, no prompt, or the first one that cannot be read.
    """
    require(not isinstance(prompts, str | bytes), "prompts is one string: give a list, or use generate")
    require(_is_listed(prompts), f"prompts is of type {type(prompts).__name__}: give a list of texts")
    rows = [encode_prompt(tokenizer, prompt, f"prompt {number}", chat) for number, prompt in enumerate(prompts)]
    require(bool(rows), "no prompts: give at least one")
    return rows


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, name: str = "the prompt", chat: bool = False) -> list[int]:
    """Token ids of a prompt; literals such as ``<|endoftext|>`` in a text are special tokens.

    A text stands behind what the model's own tokenizer opens texts with, or with `chat` within its chat template.

    Raises:
        UserError: neither a text nor ids, nothing at all, an id that the tokenizer lacks, or `chat` with ids or for a
            tokenizer without a chat template.
    """
    require(isinstance(chat, bool), f"chat = {chat!r}: must be True or False")
    require(
        not chat or isinstance(prompt, str),
        f"chat = True: {name} is no text; a chat template is applied to a text (tokenizer.chat makes the ids of a "
        "longer conversation)",
    )
    if isinstance(prompt, str):
        ids = tokenizer.chat(prompt) if chat and prompt else tokenizer.encode_prompt(prompt)
    else:
        kind = type(prompt).__name__
        require(_is_listed(prompt), f"{name} is of type {kind}: give a text or a list of token ids")
        ids = list(plain(prompt))
        several = any(isinstance(item, str | bytes) or _is_listed(item) for item in ids)
        require(
            not several, f"{name} is a {kind} of several: give one text or one list of token ids, or generate_batch"
        )
    require(
        len(ids) > 0,
        f"{name} is empty: there is nothing to continue; the prompt <|endoftext|> begins a new document",
    )
    for token in ids:
        require(
            is_whole(token) and 0 <= token < tokenizer.vocab_size,
            f"{name} has the token {token}: ids of tokenizer {tokenizer.name} are 0 to {tokenizer.vocab_size - 1}",
        )
    return [int(token) for token in ids]


def row_seeds(seeds: SupportsIndex | Iterable[SupportsIndex], rows: int) -> list[int]:
    """A seed for every row.

    Raises:
        UserError: what is no whole number from 0 to 2^32 - 1, or another number of them than of rows.
    """
    numbers = plain(seeds)
    listed = list(numbers) if _is_listed(numbers) else [numbers] * rows
    for seed in listed:
        require(
            is_whole(seed) and 0 <= seed < SEEDS,
            f"seed {seed!r}: must be a whole number from 0 to {SEEDS - 1}",
        )
    require(len(listed) == rows, f"seeds: {len(listed)} of them for {rows} prompts; give one, or one a prompt")
    return [int(seed) for seed in listed]


def _is_listed(value: Any) -> bool:
    """Whether it holds items in an order. The items of bytes are numbers, and would pass for token ids."""
    unfit = str | bytes | bytearray | Mapping | Set
    return isinstance(value, Iterable) and not isinstance(value, unfit) and getattr(value, "ndim", 1) > 0


def plain(values: Any) -> Any:
    """An array's numbers as Python's, since those of JAX are no `Integral`; anything else as it is."""
    return np.asarray(values).tolist() if hasattr(values, "__array__") else values
