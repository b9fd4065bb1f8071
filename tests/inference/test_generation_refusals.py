"""What generation refuses before it compiles, and a solve that diverges."""

import jax.numpy as jnp
import pytest
from tiny_runs import TOKENIZER, model_config, parameters

from jaxode.config import DepthConfig, UserError
from jaxode.evaluation import Diverged
from jaxode.inference import Greedy, Temperature, generate, generate_batch
from jaxode.inference.generation.decoding import prefill

PROMPT = "abc"


def test_a_text_that_must_fit_is_refused_where_it_does_not(causal):
    with pytest.raises(UserError, match=r"3 tokens of the prompt and max_new_tokens = 14 exceed the 16"):
        generate(*causal, TOKENIZER, PROMPT, max_new_tokens=14, context="refuse")
    assert generate(*causal, TOKENIZER, PROMPT, max_new_tokens=13, context="refuse").new_tokens == 13


def test_learned_positions_end():
    model = parameters(model_config("causal", positions="learned"))
    with pytest.raises(UserError, match=r"exceed the 16 positions that this model has learned"):
        generate(*model, TOKENIZER, PROMPT, max_new_tokens=14)


@pytest.mark.parametrize(
    ("prompts", "why"),
    [
        (["abc", ""], r"prompt 1 is empty: .* <\|endoftext\|> begins a new document"),
        ([[1, 2], [3, 999]], r"prompt 1 has the token 999: ids of tokenizer bytes are 0 to \d+"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(causal, prompts, why):
    with pytest.raises(UserError, match=why):
        generate_batch(*causal, TOKENIZER, prompts)


def test_more_rows_than_memory_are_refused_before_they_are_allocated(causal, monkeypatch):
    monkeypatch.setattr("jaxode.inference.memory.available_memory", lambda: 1_000_000)
    with pytest.raises(UserError, match=r"the cache of 500 rows takes 0\.\d+ GB, 0\.001 GB are available"):
        generate_batch(*causal, TOKENIZER, ["abc"] * 500)
    generate_batch(*causal, TOKENIZER, ["abc"], max_new_tokens=2)


def test_a_masked_model_is_refused(masked):
    with pytest.raises(UserError, match=r"a masked model fills in \[MASK\] and does not generate; use task fill"):
        generate(*masked, TOKENIZER, PROMPT)


def test_a_solver_that_chooses_its_own_steps_is_refused(causal):
    with pytest.raises(UserError, match=r'"tsit5" chooses its own steps, so no cache fits it'):
        generate(*causal, TOKENIZER, PROMPT, depth=DepthConfig(solver="tsit5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": DepthConfig(solver="magic")}, r"depth\.solver"),
        ({"depth": DepthConfig(steps=3, schedule="1,2")}, r"depth\.schedule"),
        ({"prefill_depth": DepthConfig(steps=3, schedule="1,2")}, r"depth\.schedule"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"context": "all"}, 'context = "all": allowed are slide, window, refuse'),
        ({"cache_share": -1}, "cache_share = -1"),
    ],
)
def test_misfits_are_refused_before_compilation(causal, change, message):
    compiled = prefill._cache_size()
    with pytest.raises(UserError, match=message):
        generate(*causal, TOKENIZER, PROMPT, **change)
    assert prefill._cache_size() == compiled


def test_a_solve_that_diverges_is_named_instead_of_decoded(causal):
    """Without kernels f is a constant of 1e19, which a norm cannot square after two steps."""
    architecture, params = causal
    params = {name: jnp.zeros_like(value) if name.endswith("kernel") else value for name, value in params.items()}
    params |= {"stack.looped.0.feed_forward.output.bias": jnp.full((16,), 1e19)}
    with pytest.raises(Diverged, match=r"a prediction is not finite .* after step 3 of 4"):
        generate(architecture, params, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=3)


def test_a_token_whose_embedding_is_damaged_ends_generation(causal):
    architecture, params = causal
    greedy = generate(*causal, TOKENIZER, PROMPT, sampling=Greedy(), max_new_tokens=24)
    name = "embedding.tokens.embedding"
    strange = next(one for one in greedy.ids[3:] if one not in TOKENIZER.encode(PROMPT))
    broken = params | {name: params[name].at[strange, 0].set(jnp.inf)}
    with pytest.raises(Diverged, match="a prediction is not finite"):
        generate(architecture, broken, TOKENIZER, PROMPT, sampling=Temperature(50.0), max_new_tokens=200)
