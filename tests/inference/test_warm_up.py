"""After a warm-up nothing compiles any more, whatever the prompt's length."""

import io
import sys

import jax
import numpy as np
import pytest
from tiny_runs import LENGTH, TOKENIZER, model_config, parameters

from jaxode.config import DepthConfig, UserError
from jaxode.inference import Greedy, Speculation, generate, generate_batch, make_sampling, warm_up
from jaxode.inference.generation import continuation as running
from jaxode.inference.generation import speculation
from jaxode.inference.generation.decoding import decode, prefill


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    jax.clear_caches()


def prompts_of(*lengths):
    return [np.arange(length) for length in lengths]


def check_warm(model, prompts, compilations, *, batch_size=1, lengths=None, **settings):
    """Nothing is compiled for prompts after a warm-up, and something would have been without."""
    before = compilations()
    warm_up(*model, TOKENIZER, lengths=lengths, batch_size=batch_size, **settings)
    warm = compilations()
    assert warm > before
    for prompt in prompts:
        generate_batch(*model, TOKENIZER, [prompt, *["ab"] * (batch_size - 1)], seeds=3, **settings)
        assert compilations() == warm, len(prompt)


def test_prompts_of_every_length_compile_nothing(causal, compilations):
    check_warm(causal, prompts_of(1, 3, 15, LENGTH), compilations, max_new_tokens=60)


def test_buckets_and_capacities(compilations):
    model = parameters(model_config("causal", length=40))
    check_warm(model, prompts_of(1, 16, 17, 33, 40), compilations, max_new_tokens=30, sampling=Greedy())


@pytest.mark.deep
def test_only_the_buckets_that_are_named(compilations):
    model = parameters(model_config("causal", length=40))
    check_warm(model, prompts_of(17, 20, 32), compilations, lengths=[20], max_new_tokens=10)
    before = compilations()
    generate(*model, TOKENIZER, "a" * 40, max_new_tokens=10)
    assert compilations() > before


def test_slots_that_grow_and_forget(compilations, monkeypatch):
    monkeypatch.setattr(running, "GROWING", 0)
    model = parameters(model_config("causal", length=64))
    check_warm(model, prompts_of(33, 40, 48), compilations, lengths=[40], max_new_tokens=200)


def test_a_batch_with_sampling_that_remembers(causal, compilations):
    rules = {"sampling": make_sampling(0.8, repetition_penalty=1.2), "max_new_tokens": 40, "document_mask": True}
    check_warm(causal, [*prompts_of(5, 12), "a<|endoftext|>b"], compilations, batch_size=3, **rules)


def test_prompts_at_another_depth_and_beyond_the_window(causal, compilations):
    rules = {"depth": DepthConfig(steps=2), "prefill_depth": DepthConfig(), "context": "window", "max_new_tokens": 40}
    check_warm(causal, prompts_of(33, 40, 48), compilations, lengths=(40,), **rules)


@pytest.mark.deep
def test_drafts_of_every_depth_and_length(causal, compilations, monkeypatch):
    monkeypatch.setitem(speculation.PARALLEL, "cpu", 0.05)
    drafts = Speculation((DepthConfig(steps=2), DepthConfig(steps=1)), (2, 4))
    check_warm(causal, prompts_of(3, 12), compilations, speculation=drafts, lengths=[16], max_new_tokens=40)


def test_one_token_needs_no_decoding(causal, compilations):
    compiled = decode._cache_size()
    check_warm(causal, prompts_of(3), compilations, max_new_tokens=1)
    assert decode._cache_size() == compiled


@pytest.mark.deep
def test_a_prompt_and_its_tokens_that_must_fit(compilations):
    model = parameters(model_config("causal", positions="learned", length=20))
    check_warm(model, prompts_of(1, 17, 18), compilations, max_new_tokens=2)


def test_a_bar_shows_on_a_terminal_alone(causal, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        warm_up(*causal, TOKENIZER, max_new_tokens=2)
        assert ("warm-up" in stream.getvalue()) == shown


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lengths": []}, "^no lengths: give at least one, or None for all$"),
        ({"lengths": [0]}, "^lengths: 0 is none; give whole numbers of at least 1$"),
        ({"lengths": [True]}, "^lengths: True is none"),
        ({"lengths": "16"}, "^lengths: '1' is none"),
        ({"lengths": 16}, "^lengths = 16: must be None or a list of whole numbers$"),
        ({"lengths": [17]}, "^the prompt has 17 tokens, more than the 16 that the model reads at once"),
        ({"context": "refuse", "max_new_tokens": 16}, "^1 tokens of the prompt and max_new_tokens = 16 exceed the 16"),
        ({"batch_size": 0}, "^batch_size = 0: must be a whole number from 1 on$"),
        ({"batch_size": 1.0}, r"^batch_size = 1\.0: must be a whole number"),
        ({"sampling": 0.8}, r"^sampling = 0\.8: must be"),
        ({"depth": DepthConfig(solver="tsit5")}, "chooses its own steps"),
    ],
    ids=repr,
)
def test_what_cannot_be_warmed_up_is_refused(causal, change, why):
    compiled = prefill._cache_size()
    with pytest.raises(UserError, match=why):
        warm_up(*causal, TOKENIZER, **change)
    assert prefill._cache_size() == compiled


def test_a_masked_model_is_refused(masked):
    with pytest.raises(UserError, match="a masked model fills in"):
        warm_up(*masked, TOKENIZER)
