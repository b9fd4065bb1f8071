"""A tokenizer of so many words, for models that are read without one."""

import tokenizers as hf

from jaxode.data import Tokenizer


def words(size):
    """Of one word a token."""
    vocabulary = {f"w{index}": index for index in range(size)}
    return Tokenizer(hf.Tokenizer(hf.models.WordLevel(vocabulary)), "words", -7, None, 0)
