"""The estimate against what XLA sets aside, and the refusal that is made of it."""

import numpy as np
import pytest
from tiny_runs import TOKENIZER, parameters

from jaxode.config import DepthConfig, ModelConfig, UserError
from jaxode.inference import memory, score_texts
from jaxode.inference.memory import row_bytes
from jaxode.inference.texts.scoring import causal_nats, masked_nats

WIDEST = {
    "feed-forward": {"kind": "masked", "length": 32, "ff_width": 512},
    "attention": {"kind": "masked", "length": 128, "heads": 8, "ff_width": 32},
    "head": {"kind": "causal", "length": 32, "vocab_size": 3000},
}


@pytest.mark.parametrize("widest", WIDEST)
def test_a_row_takes_about_what_xla_sets_aside(widest):
    config = ModelConfig(**({"vocab_size": 300, "width": 32, "heads": 2, "steps": 2} | WIDEST[widest]))
    architecture, params = parameters(config)
    rows = 16
    tokens, one = np.zeros((rows, config.length), np.int32), np.zeros(rows, np.int32)
    program, given = (causal_nats, (tokens,)) if config.kind == "causal" else (masked_nats, (one, one))
    lowered = program.lower(params, tokens, tokens, *given, architecture=architecture, depth=DepthConfig())
    taken = lowered.compile().memory_analysis().temp_size_in_bytes
    predicted = config.length if config.kind == "causal" else 1
    # the tests' programs are hardly optimised, so less of a buffer is used again
    assert 0.4 <= rows * row_bytes(config, config.length, predicted) / taken <= 2


def test_a_batch_that_does_not_fit_is_refused_before_anything_compiles(monkeypatch, causal, compilations):
    config = causal[0].bind(causal[1]).config
    row = row_bytes(config, 16, 16)
    texts = ["a few words"] * 9
    before = compilations()
    monkeypatch.setattr(memory, "available_memory", lambda: 5 * row)
    with pytest.raises(UserError, match=r"a batch of 9 rows of 16 tokens takes about .* GB .*: use a batch size of 5"):
        score_texts(*causal, TOKENIZER, texts)
    monkeypatch.setattr(memory, "available_memory", lambda: row - 1)
    with pytest.raises(UserError, match="use shorter texts or another machine"):
        score_texts(*causal, TOKENIZER, texts)
    assert compilations() == before
    monkeypatch.setattr(memory, "available_memory", lambda: 5 * row)
    assert len(score_texts(*causal, TOKENIZER, texts, batch_size=5).scores) == 9
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert len(score_texts(*causal, TOKENIZER, texts).scores) == 9
