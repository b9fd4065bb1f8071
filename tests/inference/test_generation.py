"""Generation against the plain forward pass, token by token, beyond the end of the window."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import LENGTH, TOKENIZER, model_config, parameters

from jaxode.config import DepthConfig, UserError
from jaxode.evaluation import Diverged
from jaxode.inference import Greedy, Temperature, generate
from jaxode.inference.generation import next_token

PROMPT = "abc"


@pytest.fixture(scope="module")
def greedy(causal):
    return generate(*causal, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=24)


@pytest.fixture(scope="module")
def logits_of(causal):
    """Logits [L V] of one unpadded row."""
    architecture, params = causal
    forward = jax.jit(lambda tokens: architecture.bind(params)(tokens).logits[0])
    return lambda ids: forward(jnp.asarray([ids], jnp.int32))


def check_tokens(generation, logits_of, choose):
    """Every token is what `choose(logits [1 V], place)` takes after the last L tokens before it."""
    ids = TOKENIZER.encode(PROMPT) + list(generation.ids)
    assert len(set(generation.ids)) > 8, "a constant would pass for the wrong reason"
    assert len(ids) > LENGTH + 3
    first = logits_of(ids[:LENGTH])
    for place in range(len(TOKENIZER.encode(PROMPT)), len(ids)):
        logits = first[place - 1] if place <= LENGTH else logits_of(ids[place - LENGTH : place])[-1]
        assert ids[place] == int(choose(logits[None], place)[0]), place


def test_greedy_is_the_argmax_of_the_plain_forward_everywhere(greedy, logits_of):
    check_tokens(greedy, logits_of, lambda logits, place: jnp.argmax(logits, -1))


def test_a_draw_depends_on_seed_and_place_alone(causal, logits_of):
    sampling, key = Temperature(0.8), jax.random.key(3)
    done = generate(*causal, TOKENIZER, PROMPT, sampling=sampling, seed=3, max_new_tokens=24)
    check_tokens(done, logits_of, lambda logits, place: sampling(logits, jax.random.fold_in(key, place)))


def test_padding_is_never_looked_at(causal, logits_of):
    """The padded window gives the unpadded row's logits, whatever it is padded with."""
    ids = TOKENIZER.encode("hello")
    alone = logits_of(ids)
    for filler in (TOKENIZER.pad_id, 100):
        padded = logits_of(ids + [filler] * (LENGTH - len(ids)))
        np.testing.assert_allclose(padded[: len(ids)], alone, atol=1e-4)
    assert generate(*causal, TOKENIZER, "hello", sampling=Greedy(), max_new_tokens=1).ids == (int(alone[-1].argmax()),)


def test_seeds(causal):
    first, again, other = (
        generate(*causal, TOKENIZER, PROMPT, sampling=Temperature(0.8), seed=s).ids for s in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_the_first_tokens_do_not_depend_on_how_many_follow(causal, greedy):
    short = generate(*causal, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=5)
    assert short.ids == greedy.ids[:5]
    assert short.new_tokens == 5


def test_pieces_join_to_the_text(causal):
    pieces = []
    done = generate(*causal, TOKENIZER, PROMPT, sampling=Temperature(0.8), on_token=pieces.append)
    assert "".join(pieces) == done.text == TOKENIZER.decode(done.ids)
    assert len(pieces) > 10
    assert all(pieces)


def test_the_end_token_ends_the_text(causal, greedy):
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.end_id = greedy.ids[6]
    done = generate(*causal, tokenizer, PROMPT, sampling=Greedy())
    stop = greedy.ids.index(tokenizer.end_id) + 1
    assert done.ids == greedy.ids[:stop]
    assert done.text == TOKENIZER.decode(greedy.ids[: stop - 1])
    assert done.new_tokens == stop


def test_a_long_prompt_keeps_its_last_tokens(causal):
    prompt = "The quick brown fox jumps over the lazy dog"
    assert len(TOKENIZER.encode(prompt)) > LENGTH
    whole, tail = (
        generate(*causal, TOKENIZER, text, sampling=Greedy(), max_new_tokens=4) for text in (prompt, prompt[-LENGTH:])
    )
    assert whole.ids == tail.ids
    assert (whole.prompt_tokens, tail.prompt_tokens) == (len(prompt), LENGTH)


def test_an_empty_prompt_starts_after_a_document(causal):
    empty, written = (
        generate(*causal, TOKENIZER, text, sampling=Greedy(), max_new_tokens=4) for text in ("", "<|endoftext|>")
    )
    assert empty.ids == written.ids
    assert empty.prompt_tokens == 1


def test_generating_again_compiles_nothing(causal, greedy):
    compiled = next_token._cache_size()
    architecture, _ = causal
    _, params = parameters(model_config("causal"))
    generate(architecture, params, TOKENIZER, "another prompt", sampling=Greedy(), seed=9, max_new_tokens=30)
    assert next_token._cache_size() == compiled


def test_depth_reaches_the_model_and_the_cost_is_told(causal, greedy):
    half = generate(*causal, TOKENIZER, PROMPT, depth=DepthConfig(steps=2), sampling=Greedy(), max_new_tokens=24)
    assert (greedy.block_evaluations_per_token, half.block_evaluations_per_token) == (4, 2)
    assert half.ids != greedy.ids
    assert half.seconds_per_token is not None
    assert 0 < half.seconds_per_token < half.seconds_first
    one = generate(*causal, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=1)
    assert one.seconds_per_token is None


def test_document_mask_forgets_the_document_before(causal):
    """Rotary angles count differences of places only, so the second document alone gives the same tokens."""
    joined, alone = (
        generate(*causal, TOKENIZER, text, sampling=Greedy(), max_new_tokens=5, document_mask=True).ids
        for text in ("xyz<|endoftext|>abcd", "abcd")
    )
    seen = generate(*causal, TOKENIZER, "xyz<|endoftext|>abcd", sampling=Greedy(), max_new_tokens=5).ids
    assert joined == alone != seen


def test_ids_without_a_token_are_never_drawn():
    """A vocabulary rounded up: two opposite rows, of which one always has the largest logit."""
    architecture, params = parameters(model_config("causal", vocab_size=TOKENIZER.vocab_size + 2, steps=1))
    table = params["embedding.tokens.embedding"]
    params["embedding.tokens.embedding"] = table.at[-2:].set(100 * jnp.stack([table[5], -table[5]]))
    done = generate(architecture, params, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=4)
    assert max(done.ids) < TOKENIZER.vocab_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": DepthConfig(solver="magic")}, r"depth\.solver"),
        ({"depth": DepthConfig(steps=3, schedule="1,2")}, r"depth\.schedule"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
    ],
)
def test_misfits_are_refused_before_compilation(causal, change, message):
    compiled = next_token._cache_size()
    with pytest.raises(UserError, match=message):
        generate(*causal, TOKENIZER, PROMPT, **change)
    assert next_token._cache_size() == compiled


def test_a_masked_model_does_not_generate(masked):
    with pytest.raises(UserError, match=r"use task fill"):
        generate(*masked, TOKENIZER, PROMPT)


def test_a_solve_that_diverges_is_named_instead_of_decoded(causal):
    """Without kernels f is a constant of 1e19, which a norm cannot square after two steps."""
    architecture, params = causal
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()}
    params |= {"stack.looped.0.feed_forward.output.bias": jnp.full((16,), 1e19)}
    with pytest.raises(Diverged, match=r"a prediction is not finite .* after step 3 of 4"):
        generate(architecture, params, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=3)
