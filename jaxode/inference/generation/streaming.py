"""Text as it grows: token ids in, finished characters out."""

from __future__ import annotations

from collections.abc import Sequence

from jaxode.data import Tokenizer

BROKEN = "\ufffd"  # what a decoder shows for the first bytes of a character whose rest is still to come
CONTEXT = 8


class TextStream:
    """Decode a continuation some tokens at a time; the pieces join to the whole text.

    A character whose bytes lie in several tokens is held back until it is complete. Only the last pieces are decoded
    again: some tokenizers write a token differently at the start of a text, so each needs its neighbour before it.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()):
        """Continue the text of `prompt`, which is not given out again."""
        self._tokenizer = tokenizer
        self._ids = list(prompt)[-CONTEXT:]
        self._start = 0  # where decoding begins, always between two characters
        self._mark = len(self._ids)  # where the last finished piece ended
        self._given = len(self._decode())  # characters of the decoded text that are out already

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids[self._start :])

    def push(self, *tokens: int) -> str:
        """Take tokens; return the characters that are complete now, possibly none."""
        self._ids.extend(tokens)
        text = self._decode()
        # one broken tail shows as one mark, so everything before the last mark is settled
        settled = text.removesuffix(BROKEN)
        piece = settled[self._given :]
        self._given = max(self._given, len(settled))
        if settled == text:
            self._start, self._mark = self._mark, len(self._ids)
            self._given = len(self._decode())
        return piece

    def finish(self) -> str:
        """What was held back: bytes that never became a character."""
        piece = self._decode()[self._given :]
        self._given += len(piece)
        return piece
