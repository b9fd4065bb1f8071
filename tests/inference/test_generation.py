"""Generation with its cache against the plain forward pass, token by token, beyond the end of the window."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import LENGTH, TOKENIZER, model_config, parameters

from jaxode.config import DepthConfig, UserError
from jaxode.depth import Coefficients
from jaxode.inference import Greedy, Temperature, generate, generate_batch, make_sampling
from jaxode.inference.generation import continuation as running
from jaxode.inference.generation.decoding import TURN, decode, prefill
from jaxode.model.gains import Gains
from jaxode.model.masks import document_mask
from jaxode.model.parameters import calibration_parameters

PROMPT = "abc"


@pytest.fixture(scope="module")
def greedy(causal):
    return generate(*causal, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=24)


def plain_logits(architecture, params, ids, depth=None, documents=False):
    """Logits [L V] of one row by the whole forward pass, each token reading the last LENGTH tokens alone."""

    @jax.jit
    def forward(params, tokens):
        model = architecture.bind(params)
        x0, context = model.start(tokens)
        index = jnp.arange(tokens.shape[1])
        mask = (index[:, None] - index[None, :] < LENGTH)[None, None]
        if documents:
            ends = (tokens == TOKENIZER.end_id).astype(int)
            mask = mask & document_mask(1 + jnp.cumsum(ends, axis=1) - ends, causal=True)
        chosen = depth or DepthConfig()
        context = dataclasses.replace(context, mask=mask)
        state = model.stack(x0, chosen, context, coefficients=model.coefficients(chosen)).state
        return model.read_out(state)[0, :, : TOKENIZER.vocab_size]

    return np.asarray(forward(params, jnp.asarray([ids], jnp.int32)))


def check_greedy(done, prompt_ids, logits):
    """Every token is the argmax of the plain forward, and its log-probability the plain one."""
    logs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    for i, (token, nats) in enumerate(zip(done.ids, done.log_probabilities, strict=True)):
        row = logs[len(prompt_ids) + i - 1]
        assert token == row.argmax(), i
        np.testing.assert_allclose(nats, row[token], atol=1e-4, err_msg=str(i))


def check_run(architecture, params, prompts, depth=None, tokens=20, **settings):
    done = generate_batch(
        architecture, params, TOKENIZER, prompts, depth=depth, sampling=Greedy(), max_new_tokens=tokens, **settings
    )
    for prompt, one in zip(prompts, done, strict=True):
        ids = TOKENIZER.encode(prompt, allow_special=True)
        documents = settings.get("document_mask", False)
        check_greedy(one, ids, plain_logits(architecture, params, [*ids, *one.ids], depth, documents))
    return done


def test_every_token_is_that_of_the_plain_forward_beyond_the_window(causal):
    done = check_run(*causal, ["abc", "hello world"], tokens=60)
    assert len(done[0].ids) > 3 * LENGTH, "the text must leave the window, and the cache forget"
    assert len(set(done[0].ids)) > 5, "a constant would pass for the wrong reason"


def test_slots_begin_small_and_grow_where_they_are_large(monkeypatch):
    architecture, params = parameters(model_config("causal", length=128))
    prompts, sizes = ["abc", "hello world"], []

    def text():
        return generate_batch(architecture, params, TOKENIZER, prompts, sampling=Greedy(), max_new_tokens=120)

    def spy(params, past, *rest, **settings):
        sizes.append(past.capacity)
        return decode(params, past, *rest, **settings)

    monkeypatch.setattr(running, "decode", spy)
    whole = text()
    assert set(sizes) == {192}
    sizes.clear()
    monkeypatch.setattr(running, "GROWING", 0)
    for grown, one in zip(text(), whole, strict=True):
        assert grown.ids == one.ids
        np.testing.assert_allclose(grown.log_probabilities, one.log_probabilities, atol=1e-4)
    assert sizes == sorted(sizes)
    assert set(sizes) == {64, 128, 192}


@pytest.mark.broad
@pytest.mark.parametrize(
    "layout",
    [
        {"sharing": "sequence", "groups": 2},
        {"sharing": "cycle", "groups": 2},
        {"sharing": "none"},
        {"prelude": 1, "coda": 1, "inner_blocks": 2},
        {"kv_heads": 1, "norm_position": "post", "feed_forward": "swiglu"},
        {"conditioning": "step", "inject_input": True, "step_size": 0.5},
    ],
    ids=lambda layout: "-".join(layout),
)
@pytest.mark.deep
def test_every_layout(layout):
    check_run(*parameters(model_config("causal", **layout)), ["abc", "hello you"], tokens=8)


def test_learned_positions():
    check_run(*parameters(model_config("causal", positions="learned")), ["abc", "hello"], tokens=8)


def test_learned_positions_may_end_at_any_length():
    model = parameters(model_config("causal", positions="learned", length=20))
    assert generate(*model, TOKENIZER, 18 * "a", max_new_tokens=2).new_tokens == 2


@pytest.mark.broad
@pytest.mark.parametrize(
    "depth",
    [
        DepthConfig(steps=2),
        DepthConfig(steps=6, solver="euler", schedule="unit"),
        DepthConfig(steps=2, solver="lie"),
        DepthConfig(steps=2, solver="heun"),
        DepthConfig(steps=2, solver="midpoint"),
        DepthConfig(steps=1, solver="rk4"),
        DepthConfig(steps=3, solver="ab3", schedule="1,1,2"),
        DepthConfig(steps=2, solver="secant", schedule="geometric:2"),
        DepthConfig(steps=2, solver="calibrated"),
    ],
    ids=lambda depth: depth.solver,
)
@pytest.mark.broad
def test_every_solver(causal, depth):
    architecture, params = causal
    if depth.solver == "calibrated":
        rng = np.random.default_rng(0)
        gains = jax.tree.map(
            lambda one: one + 0.1 * rng.normal(size=one.shape), Gains.neutral(model_config("causal"), 2)
        )
        fitted = Coefficients(
            np.array([[1.5, 0.2], [2.5, -0.5]]),
            down=rng.normal(size=(2, 2, 16, 3)),
            up=0.1 * rng.normal(size=(2, 3, 16)),
            gains=gains,
        )
        fitted = jax.tree.map(lambda one: jnp.asarray(one, jnp.float32), fitted)
        params = params | calibration_parameters(2, fitted)
    check_run(architecture, params, ["abc", "hello"], depth, tokens=8)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.text("abcdefgh <>", min_size=1, max_size=LENGTH), min_size=3, max_size=3),
    temperature=st.sampled_from([0.0, 0.8]),
    penalty=st.sampled_from([1.0, 1.5]),
)
def test_a_batch_is_its_rows_one_by_one(causal, prompts, temperature, penalty):
    """Ragged prompts, seeds of their own, rows that end early: nothing of a neighbour is seen."""
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.end_id = 32  # a space ends a row here
    sampling = make_sampling(temperature, top_k=0, repetition_penalty=penalty)
    rules = {"sampling": sampling, "max_new_tokens": 20}
    together = generate_batch(*causal, tokenizer, prompts, seeds=[5, 6, 7], **rules)
    for row, prompt in enumerate(prompts):
        alone = generate(*causal, tokenizer, prompt, seed=5 + row, **rules)
        assert together[row].ids == alone.ids
        np.testing.assert_allclose(together[row].log_probabilities, alone.log_probabilities, atol=1e-3)


def test_a_draw_depends_on_seed_and_place_alone(causal):
    sampling, key = Temperature(0.8), jax.random.key(3)
    done = generate(*causal, TOKENIZER, PROMPT, sampling=sampling, seed=3, max_new_tokens=24)
    logits = plain_logits(*causal, [*TOKENIZER.encode(PROMPT), *done.ids])
    for i, token in enumerate(done.ids):
        own = jax.random.fold_in(key, len(PROMPT) + i)
        assert token == int(jax.random.categorical(own, logits[len(PROMPT) + i - 1] / 0.8)), i


def test_padding_is_never_looked_at(causal):
    alone, beside = (
        generate_batch(*causal, TOKENIZER, prompts, sampling=Greedy(), max_new_tokens=6)[0]
        for prompts in (["hello"], ["hello", "a much longer p"])
    )
    assert alone.ids == beside.ids
    np.testing.assert_allclose(alone.log_probabilities, beside.log_probabilities, atol=1e-5)


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


def test_rows_hand_out_their_own_text(causal):
    pieces = {0: "", 1: ""}

    def keep(row, piece):
        pieces[row] += piece

    done = generate_batch(*causal, TOKENIZER, ["abc", "xyz"], sampling=Greedy(), max_new_tokens=40, on_text=keep)
    assert [pieces[0], pieces[1]] == [one.text for one in done]
    assert done[0].text != done[1].text


def test_the_end_token_ends_the_text(causal, greedy):
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.end_id = greedy.ids[6]
    done = generate(*causal, tokenizer, PROMPT, sampling=Greedy())
    stop = greedy.ids.index(tokenizer.end_id) + 1
    assert done.ids == greedy.ids[:stop]
    assert done.text == TOKENIZER.decode(greedy.ids[: stop - 1])
    assert done.new_tokens == stop


def test_a_long_prompt_is_refused_or_read_through_the_window(causal, monkeypatch):
    prompt = "The quick brown fox jumps over the lazy dog"
    with pytest.raises(UserError, match=r"the prompt has 43 tokens, more than the 16 that the model reads at once"):
        generate(*causal, TOKENIZER, prompt)
    check_run(*causal, [prompt, "abc"], tokens=6, context="window")
    # what no token reads is not kept
    sizes = []

    def spy(params, past, *rest, **settings):
        sizes.append(past.capacity)
        return decode(params, past, *rest, **settings)

    monkeypatch.setattr(running, "decode", spy)
    generate(*causal, TOKENIZER, prompt, max_new_tokens=40, context="window")
    assert set(sizes) == {2 * LENGTH + TURN}


def test_generating_again_compiles_nothing(causal, greedy, compilations):
    architecture, _ = causal
    _, params = parameters(model_config("causal"))
    for prompt in ("another prompt", "b"):
        generate(architecture, params, TOKENIZER, prompt, sampling=Greedy(), seed=9, max_new_tokens=30)
    before, programs = compilations(), (prefill._cache_size(), decode._cache_size())
    for prompt in ("a prompt again", "c"):
        generate(architecture, params, TOKENIZER, prompt, sampling=Greedy(), seed=8, max_new_tokens=30)
    assert compilations() == before
    assert (prefill._cache_size(), decode._cache_size()) == programs


def test_depth_reaches_the_model_and_the_cost_is_told(causal, greedy):
    half = generate(*causal, TOKENIZER, PROMPT, depth=DepthConfig(steps=2), sampling=Greedy(), max_new_tokens=24)
    assert (greedy.block_evaluations_per_token, half.block_evaluations_per_token) == (4, 2)
    assert half.ids != greedy.ids
    assert half.seconds_per_token > 0
    one = generate(*causal, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=1)
    assert one.seconds_per_token is None


def test_prompts_may_be_read_at_another_depth(causal):
    """The first token is that of the prompt's depth."""
    architecture, params = causal
    half = DepthConfig(steps=2)
    rules = {"sampling": Greedy(), "max_new_tokens": 2}
    mixed = generate(architecture, params, TOKENIZER, "hello", prefill_depth=half, **rules)
    assert mixed.ids[0] == plain_logits(architecture, params, TOKENIZER.encode("hello"), half)[-1].argmax()
    same = generate(architecture, params, TOKENIZER, "hello", depth=half, prefill_depth=half, **rules)
    assert same.ids == generate(architecture, params, TOKENIZER, "hello", depth=half, **rules).ids


def test_a_shared_slot_is_another_model(causal):
    """With one slot for all steps log-probabilities change, but not of the first token, which is the prompt's."""
    whole, shared = (
        generate(*causal, TOKENIZER, "hello", sampling=Greedy(), max_new_tokens=3, cache_share=share)
        for share in (1, 0)
    )
    assert whole.log_probabilities[0] == pytest.approx(shared.log_probabilities[0], abs=1e-5)
    assert whole.log_probabilities[1] != pytest.approx(shared.log_probabilities[1], abs=1e-3)


def test_document_mask_forgets_the_document_before(causal):
    """Rotary angles count differences of places only, so the second document alone gives the same tokens."""
    joined, alone = check_run(*causal, ["xyz<|endoftext|>abcd", "abcd"], tokens=5, document_mask=True)
    seen = generate(*causal, TOKENIZER, "xyz<|endoftext|>abcd", sampling=Greedy(), max_new_tokens=5)
    assert joined.ids == alone.ids != seen.ids


def test_ids_without_a_token_are_never_drawn():
    """A vocabulary rounded up: two opposite rows, of which one always has the largest logit."""
    architecture, params = parameters(model_config("causal", vocab_size=TOKENIZER.vocab_size + 2, steps=1))
    table = params["embedding.tokens.embedding"]
    params["embedding.tokens.embedding"] = table.at[-2:].set(100 * jnp.stack([table[5], -table[5]]))
    done = generate(architecture, params, TOKENIZER, PROMPT, sampling=Greedy())
    assert max(done.ids) < TOKENIZER.vocab_size
