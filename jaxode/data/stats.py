"""How large a split is. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class SplitStats:
    """Size of one split; `tokens` counts one end token a document, or what stands around it; `bytes` is the text as
    UTF-8.
    """

    documents: int
    tokens: int
    bytes: int
    cut: int = 0
    """Texts that were longer than a row, where rows hold whole texts; of these the first tokens are read."""
    unknown: int = 0
    """Tokens that stand for what the vocabulary has not."""

    @property
    def tokens_per_byte(self) -> float:
        """Turns nats per token into bits per byte: bits/byte = nats/token * tokens_per_byte / ln 2."""
        return self.tokens / self.bytes

    def notes(self, length: int) -> Iterator[str]:
        """What is told of texts that were cut to rows of `length`, and of what the tokenizer does not know."""
        if self.cut:
            yield (
                f"{self.cut} of {self.documents} texts are longer than model.length = {length} with what stands around "
                "them, and were cut to it"
            )
        if self.unknown:
            yield (
                f"{self.unknown} of {self.tokens} tokens stand for pieces of text that the tokenizer does not know, "
                "and are read as its unknown token"
            )


def added(several: Sequence[SplitStats]) -> SplitStats:
    """Of several splits together."""
    return SplitStats(*(sum(getattr(stats, field.name) for stats in several) for field in fields(SplitStats)))
