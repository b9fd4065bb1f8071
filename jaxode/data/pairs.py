"""How two texts share a row: what stands before, between and after them, and of which kind each token is.

Imports no jax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers as hf
from tokenizers import models

from jaxode.config import UserError


@dataclass(frozen=True)
class PairTemplate:
    """Special tokens around two texts, as in [CLS] first [SEP] second [SEP], and the kinds of all tokens."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    kinds: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]] = ((), 0, (), 1, ())
    """Of `before`, the first text, `between`, the second text and `after`."""

    @property
    def size(self) -> int:
        """Special tokens."""
        return len(self.before) + len(self.between) + len(self.after)

    def row(self, first: Sequence[int], second: Sequence[int], length: int) -> tuple[list[int], list[int]]:
        """Ids and kinds of a row of `length` tokens at most: where both are too long, the longer text loses its end."""
        room = length - self.size
        kept = min(len(second), max(room // 2, room - len(first)))
        first, second = first[: room - kept], second[:kept]
        ids = [*self.before, *first, *self.between, *second, *self.after]
        before, one, between, two, after = self.kinds
        return ids, [*before, *[one] * len(first), *between, *[two] * len(second), *after]


def pair_template(tokenizer: hf.Tokenizer, name: str) -> PairTemplate | None:
    """What a tokenizer puts around two texts; None where it puts nothing between them.

    Raises:
        UserError: a template that leaves the second text out.
    """
    # of another vocabulary: a text's own ids do not matter, and any text may hold none
    token = hf.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).encode("a")
    framed = tokenizer.post_process(token, token)
    own = [place for place, special in enumerate(framed.special_tokens_mask) if not special]
    if len(own) != 2:
        raise UserError(f"tokenizer {name}: its template has no place for a second text; give one text a line")
    first, second = own
    parts = (slice(0, first), slice(first + 1, second), slice(second + 1, None))
    before, between, after = (tuple(framed.ids[part]) for part in parts)
    if not between:
        return None
    kinds = framed.type_ids
    sides = [tuple(kinds[part]) for part in parts]
    return PairTemplate(before, between, after, (sides[0], kinds[first], sides[1], kinds[second], sides[2]))
