"""How texts go through a model: as rows of its tokens, cut or refused, in batches, each answer at its text's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from jaxode.config import DepthConfig, ModelConfig
from jaxode.data import Tokenizer
from jaxode.inference.texts.batch_pass import BatchPass, Solved
from jaxode.inference.texts.batching import RowBatch
from jaxode.inference.texts.token_ids import Frame, TokenRows, check_vocabulary, pair_rows, token_rows
from jaxode.model import Transformer
from jaxode.model.parameters import Architecture, Parameters


@dataclass(frozen=True)
class TextPass:
    """A model at a depth with its tokenizer, and what texts are to go through it; fields as arguments of
    `classify_texts`.
    """

    architecture: Architecture
    params: Parameters
    tokenizer: Tokenizer
    depth: DepthConfig | None
    batch_size: int
    frame: Frame
    truncate: bool
    names: Sequence[str]
    progress: str | None

    @property
    def batches(self) -> BatchPass:
        """The same for rows of any making."""
        return BatchPass(self.architecture, self.params, self.depth or DepthConfig(), self.batch_size, self.progress)

    @cached_property
    def model(self) -> Transformer:
        """Once the depth fits it.

        Raises:
            UserError: as `BatchPass.check`.
        """
        return self.batches.check()

    def rows(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> TokenRows:
        """Texts or pairs as rows that the model reads, each within its frame.

        Raises:
            UserError: as `model_rows`.
        """
        options = {"frame": self.frame, "truncate": self.truncate, "names": self.names}
        return model_rows(self.model.config, self.tokenizer, texts, pairs, **options)

    def opened_rows(self, texts: Iterable[str], opening: Sequence[int]) -> TokenRows:
        """Texts without a frame, which a causal model reads behind `opening`, whose tokens are none of the rows'.

        Raises:
            UserError: as `model_rows`.
        """
        model = self.model.config
        check_vocabulary(model, self.tokenizer)
        # the first token takes the place of the last, which predicts nothing here
        length = model.length - max(0, len(opening) - 1)
        return token_rows(self.tokenizer, texts, length, frame=False, truncate=self.truncate, names=self.names)

    def solve(
        self, program: Callable[..., Any], rows: TokenRows, *, by_token: bool = False, dtype: DTypeLike = np.float64
    ) -> Solved:
        """What a compiled function of tokens, segments and the kinds of pairs gives for every text or token; arguments
        and refusals as of `BatchPass`.
        """

        def inputs(batch: RowBatch) -> tuple[np.ndarray, ...]:
            return rows.arrays(batch, self.tokenizer.pad_id)

        count = len(rows.ids)
        return self.batches(program, inputs, rows.lengths, texts=count, predicted=0, by_token=by_token, dtype=dtype)


def model_rows(
    model: ModelConfig,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    pairs: Iterable[str] | None = None,
    *,
    frame: Frame = None,
    truncate: bool = False,
    names: Sequence[str] = (),
) -> TokenRows:
    """Texts, or pairs of them, as rows that a model reads.

    Raises:
        UserError: a tokenizer with more ids than the model, or as `token_rows` and `pair_rows`.
    """
    check_vocabulary(model, tokenizer)
    options = {"frame": frame, "truncate": truncate, "names": names}
    if pairs is None:
        return token_rows(tokenizer, texts, model.length, **options)
    rows = pair_rows(tokenizer, texts, pairs, model.length, **options)
    # a model that tells no kinds apart has no table of them
    return rows if model.token_types > 1 else replace(rows, kinds=None)
