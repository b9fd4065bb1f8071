"""Speculation gives what plain decoding gives: the same tokens where nothing is drawn, else the same distribution."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import LENGTH, TOKENIZER, model_config, parameters
from tokenizers import models

from jaxode.config import DepthConfig, UserError
from jaxode.data import Tokenizer, byte_tokenizer
from jaxode.inference import Greedy, Speculation, Temperature, generate, generate_batch, make_sampling
from jaxode.inference.generation import continuation as running
from jaxode.inference.generation import speculation
from jaxode.inference.generation.decoding import TURN, decode
from jaxode.inference.generation.speculation import Counts, DraftChoice

HALF, ONE = DepthConfig(steps=2), DepthConfig(steps=1)


@pytest.fixture(scope="module", autouse=True)
def _checks_are_cheap():
    """As on an accelerator, so that drafts are tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(speculation.PARALLEL, "cpu", 0.05)
        yield


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.text("abcdefgh", min_size=1, max_size=LENGTH), min_size=2, max_size=2),
    drafts=st.sampled_from([Speculation((HALF,), (3,)), Speculation((ONE,), (1,)), Speculation((ONE, HALF), (2, 5))]),
)
def test_greedy_tokens_are_those_of_plain_decoding(causal, prompts, drafts):
    """Also beyond the window, in rows that accept differently."""
    rules = {"sampling": Greedy(), "max_new_tokens": 50}
    plain = generate_batch(*causal, TOKENIZER, prompts, **rules)
    done = generate_batch(*causal, TOKENIZER, prompts, speculation=drafts, **rules)
    for one, other in zip(plain, done, strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=1e-3)
    assert done[0].acceptance is not None


def test_plain_decoding_goes_on_where_drafts_ended_unevenly(monkeypatch):
    """A row that is at its end leads by far, and leaves room for the other all the same."""
    architecture, params = parameters(model_config("causal", length=128))
    prompts, rules = ["aaaaaaaaaaaaaaaa", "hello world"], {"sampling": Greedy(), "max_new_tokens": 80}
    plain = generate_batch(architecture, params, TOKENIZER, prompts, **rules)
    drafts = iter([(HALF, 4), (HALF, 4)])
    monkeypatch.setattr(DraftChoice, "next", lambda _: next(drafts, None))
    # the first row is given all that is drafted for it, the second one nothing
    monkeypatch.setattr(speculation, "_accepted", lambda *_: jnp.array([4, 0]))
    left = []

    def spy(params, past, *rest, **settings):
        left.append(past.capacity - int(past.end.max()))
        return decode(params, past, *rest, **settings)

    monkeypatch.setattr(running, "decode", spy)
    done = generate_batch(architecture, params, TOKENIZER, prompts, speculation=Speculation((HALF,)), **rules)
    assert done[1].ids == plain[1].ids
    assert done[0].new_tokens == 80
    assert min(left) >= TURN


def test_a_repetition_penalty_sees_the_draft(causal):
    """Each drafted token counts as seen by those after it."""
    rules = {"sampling": make_sampling(0.0, repetition_penalty=3.0), "max_new_tokens": 30}
    plain = generate(*causal, TOKENIZER, "abc", **rules)
    done = generate(*causal, TOKENIZER, "abc", speculation=Speculation((HALF,), (4,)), **rules)
    assert plain.ids == done.ids
    assert len(set(plain.ids)) > 15


def test_an_end_within_a_draft_ends_the_row(causal):
    tokenizer = byte_tokenizer()
    free = generate(*causal, tokenizer, "abc", sampling=Greedy(), max_new_tokens=20)
    tokenizer.end_id = free.ids[7]
    stop = free.ids.index(tokenizer.end_id) + 1
    done = generate(*causal, tokenizer, "abc", sampling=Greedy(), speculation=Speculation((HALF,), (5,)))
    assert done.ids == free.ids[:stop]


def test_no_more_tokens_than_asked(causal):
    for count in (1, 2, 5, 6):
        done = generate(
            *causal, TOKENIZER, "abc", sampling=Greedy(), max_new_tokens=count, speculation=Speculation((HALF,), (4,))
        )
        assert done.new_tokens == count


@pytest.mark.deep
def test_how_fast_a_machine_is_changes_no_draw(causal, monkeypatch):
    """A reader gets the text in other pieces, by drafts that were chosen from the same counts."""
    rules = {"sampling": Temperature(0.8), "max_new_tokens": 120, "speculation": Speculation((ONE, HALF), (2, 4, 7))}

    def drawn(seed, seconds):
        pieces, clock = [], itertools.count(step=seconds)
        monkeypatch.setattr(running, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
        done = generate(*causal, TOKENIZER, "abc", seed=seed, on_token=pieces.append, **rules)
        monkeypatch.undo()
        return done.ids, done.acceptance, pieces

    for seed in range(3):
        unheard = generate(*causal, TOKENIZER, "abc", seed=seed, **rules)
        # a call takes no time, or the reader's whole patience
        for seconds in (1e-9, 10.0):
            ids, acceptance, pieces = drawn(seed, seconds)
            assert (ids, acceptance, "".join(pieces)) == (unheard.ids, unheard.acceptance, unheard.text)


def test_a_good_draft_is_accepted_and_a_bad_one_costs(causal):
    """The full depth in other words drafts perfectly: 3 evaluations would be no draft, so compare with a blind one."""
    near = generate(
        *causal, TOKENIZER, "abc", sampling=Greedy(), max_new_tokens=60,
        speculation=Speculation((DepthConfig(steps=3, schedule="1,1,2"),), (3,)),
    )  # fmt: skip
    far = generate(
        *causal, TOKENIZER, "abc", sampling=Greedy(), max_new_tokens=60, speculation=Speculation((ONE,), (3,))
    )
    assert near.acceptance > far.acceptance
    # a refused draft's evaluations count: at best (3 + 4 x 4) / 4 a token
    assert far.block_evaluations_per_token > (3 + 4 * 4) / 4


VOCABULARY, TOKENS, HEAT = 4, 3, 4.0
DRAWS = 4000


@pytest.fixture(scope="module")
def tiny():
    """A model of 4 tokens, a prompt, and the exact distribution over the 3 tokens that follow."""
    architecture, params = parameters(model_config("causal", vocab_size=VOCABULARY, steps=4))
    # matrices large enough that a step of 4 is far from 4 steps, and that no token is certain
    for i, (name, value) in enumerate(sorted(params.items())):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(2), i), value.shape)
        if not name.startswith("stack"):
            params[name] = 0.7 * noise
        elif value.ndim == 2:
            params[name] = 0.5 * noise / value.shape[0] ** 0.5
    prompt = [1, 2]

    @jax.jit
    def logs(tokens):
        return jax.nn.log_softmax(architecture.bind(params)(tokens).logits / HEAT, axis=-1)

    exact = {}
    for text in itertools.product(range(VOCABULARY), repeat=TOKENS):
        rows = logs(jnp.asarray([[*prompt, *text]]))[0]
        exact[text] = float(jnp.exp(sum(rows[len(prompt) + i - 1, token] for i, token in enumerate(text))))
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    return architecture, params, prompt, exact


FOUR = Tokenizer(hf.Tokenizer(models.WordLevel({one: i for i, one in enumerate("abcd")})), "four", -7, None, 0)
"""Four tokens, none of which ends a text."""


def chi_square(tiny, draft):
    """Of DRAWS continuations against exact enumeration; 63 degrees of freedom."""
    architecture, params, prompt, exact = tiny
    done = generate_batch(
        architecture, params, FOUR, [prompt] * DRAWS, sampling=Temperature(HEAT), max_new_tokens=TOKENS,
        seeds=list(range(DRAWS)), speculation=draft,
    )  # fmt: skip
    counts = dict.fromkeys(exact, 0)
    for one in done:
        counts[one.ids] += 1
    assert draft is None or 0.2 < done[0].acceptance < 0.98, "both outcomes of a draft must be common"
    return sum((counts[text] - DRAWS * p) ** 2 / (DRAWS * p) for text, p in exact.items() if p * DRAWS > 0.5)


QUANTILE = 103.4
"""0.999 of chi-square with 63 degrees of freedom."""


@pytest.mark.deep
def test_draws_follow_the_exact_distribution(tiny):
    assert chi_square(tiny, None) < QUANTILE
    assert chi_square(tiny, Speculation((ONE,), (2,))) < QUANTILE


@pytest.mark.broad
@pytest.mark.parametrize("wrong", ["accepts too much", "draws again from p"])
def test_a_wrong_acceptance_rule_fails(tiny, monkeypatch, wrong):
    """What the test above would not notice is not tested."""
    jax.clear_caches()
    if wrong == "accepts too much":
        original = speculation._accepted

        def accepted(sampling, wanted, drawn_from, drafted, keys, places):
            return original(sampling, wanted + 0.5, drawn_from, drafted, keys, places)

        monkeypatch.setattr(speculation, "_accepted", accepted)
    else:
        original = speculation._follower

        def follower(sampling, wanted, drawn_from, accepted, keys, places):
            return original(sampling, wanted, jnp.full_like(drawn_from, -jnp.inf), accepted, keys, places)

        monkeypatch.setattr(speculation, "_follower", follower)
    assert chi_square(tiny, Speculation((ONE,), (2,))) > QUANTILE
    jax.clear_caches()


def test_a_stale_slot_changes_tokens(causal, monkeypatch):
    """If the check did not overwrite the draft's keys and values, tokens would differ."""
    from jaxode.inference.generation import decoding
    from jaxode.model import memory

    rules = {"sampling": Greedy(), "max_new_tokens": 50, "speculation": Speculation((ONE,), (3,))}
    right = generate(*causal, TOKENIZER, "abc", **rules)
    jax.clear_caches()
    original = memory.put
    monkeypatch.setattr(memory, "put", lambda old, new, count: old if new.shape[2] > 1 else original(old, new, count))
    wrong = generate(*causal, TOKENIZER, "abc", **rules)
    monkeypatch.undo()
    jax.clear_caches()
    assert decoding.put is original
    assert right.ids != wrong.ids


def test_the_draft_adapts(monkeypatch):
    monkeypatch.setitem(speculation.PARALLEL, "cpu", 0.31)
    model = model_config("causal", steps=12)
    two, six = DepthConfig(steps=2), DepthConfig(steps=6)
    choice = DraftChoice(model, DepthConfig(), Speculation((two, six), (2, 7)))
    first = choice.next()
    assert first[0] == two
    choice.learn(two, Counts(rounds=20, drafted=140, accepted=5, refused=20))
    assert choice.next()[0] == six, "each depth is tried once"
    choice.learn(six, Counts(rounds=20, drafted=140, accepted=138, refused=1))
    assert choice.next()[0] == six
    choice.learn(two, Counts(rounds=200, drafted=1400, accepted=1395, refused=1))
    assert choice.next() == (two, 7), "what is accepted and cheap wins"
    for depth in (two, six):
        choice.learn(depth, Counts(rounds=5000, drafted=10000, accepted=0, refused=5000))
    assert choice.next() is None, "where nothing is accepted nothing is drafted"
    monkeypatch.setitem(speculation.PARALLEL, "cpu", 1.0)
    assert DraftChoice(model, DepthConfig(), Speculation((two, six))).next() is None, "nor tried where it cannot pay"
    only = DraftChoice(model, DepthConfig(), Speculation((two,), (2,)))
    only.learn(two, Counts(rounds=5000, drafted=10000, accepted=0, refused=5000))
    assert only.next() == (two, 2), "one way alone is what was asked for"


def test_shared_slots_are_refused(causal):
    with pytest.raises(UserError, match="cache_share = 2 with speculation"):
        generate(*causal, TOKENIZER, "abc", speculation=Speculation((HALF,)), cache_share=2)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: Speculation(()), "no depth to draft at"),
        (lambda: Speculation((HALF,), (0,)), r"lengths = \[0\]"),
        (lambda: Speculation((HALF,), (2, 32)), r"lengths = \[2, 32\]: must be below 32"),
        (lambda: DraftChoice(model_config("causal"), HALF, Speculation((HALF,))), "a draft of 2 steps costs 2"),
    ],
)
def test_drafts_that_cannot_help_are_refused(build, why):
    with pytest.raises(UserError, match=why):
        build()
