"""The cache over loops: what each rule lets later tokens read, against Ouro token by token in NumPy; its size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from flax import nnx
from references import ouro
from references.words import words

import jaxode
from jaxode import CausalLM, DepthConfig, UserError
from jaxode.config import InferConfig
from jaxode.inference import Greedy, Speculation, cache_bytes_per_token
from jaxode.inference.generation.cache import Layout
from jaxode.inference.generation.continuation import Running
from jaxode.inference.generation.settings import Settings
from jaxode.interop import from_pretrained
from jaxode.interop.families import FAMILIES
from jaxode.interop.families.family import Fields
from jaxode.model.parameters import split

CASE = CASES["ouro"]
NORMS = ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2")
PROMPT, NEW = [3, 14, 15, 9, 26], 7
RULES = {
    "loop": lambda loops, u: u,
    "last": lambda loops, u: loops - 1,
    "first": lambda loops, u: 0,
    "modulo:2": lambda loops, u: max(v for v in range(loops) if v % 2 == u % 2),
    "modulo:3": lambda loops, u: max(v for v in range(loops) if v % 3 == u % 3),
}
"""The loop whose keys and values of earlier tokens are read in loop u."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return from_pretrained(CASE.write(tmp_path_factory.mktemp("ouro")))


def continued(prompt, new, loops, reads):
    """Greedy tokens and their log-probabilities, one token at a time: every loop's keys and values are kept."""
    config, eps = CASE.config, CASE.config["rms_norm_eps"]
    tensors = {name: value.astype(np.float64) for name, value in CASE.tensors().items()}
    kept = {}  # (loop, layer) -> keys and values of each token so far, [heads, K]
    tokens, found, nats = list(prompt), [], []
    for place in range(len(prompt) + new - 1):
        exact = place < len(prompt)  # a prompt is read as a whole
        x = tensors["model.embed_tokens.weight"][tokens[place]]
        for loop in range(loops):
            for layer in range(config["num_hidden_layers"]):
                name = f"model.layers.{layer}."
                before, after, middle, end = (tensors[name + part + ".weight"] for part in NORMS)
                branch = ouro.norm(x, before, eps)
                q, k, v = heads_of(config, tensors, name + "self_attn.", branch, place)
                here = kept.setdefault((loop, layer), [])
                there = here if exact else kept[reads(loops, loop), layer]
                # earlier tokens as the rule says, this one as it is
                seen = [*there[:place], (k, v)]
                keys, values = (np.stack(part) for part in zip(*seen, strict=True))
                here.append((k, v))
                branch = attended(q, keys, values) @ tensors[name + "self_attn.o_proj.weight"].T
                x = x + ouro.norm(branch, after, eps)
                branch = ouro.norm(x, middle, eps)
                branch = ouro.feed_forward(tensors, name + "mlp.", branch)
                x = x + ouro.norm(branch, end, eps)
            x = ouro.norm(x, tensors["model.norm.weight"], eps)
        if place >= len(prompt) - 1:
            logits = x @ tensors["lm_head.weight"].T
            found.append(int(np.argmax(logits)))
            nats.append(float(np.log(ouro.softmax(logits)[found[-1]])))
            tokens.append(found[-1])
    return found, nats


def heads_of(config, tensors, name, x, place):
    """Queries, keys and values of one token, [heads, K], turned by its place."""
    width, positions = config["head_dim"], np.array([place])
    turned = []
    for part in ("q_proj", "k_proj", "v_proj"):
        heads = (x @ tensors[name + part + ".weight"].T).reshape(-1, 1, width)
        turned.append(heads if part == "v_proj" else ouro.rotate(heads, positions, ouro.frequencies(config)))
    return tuple(heads[:, 0] for heads in turned)


def attended(q, keys, values):
    """One query a head over keys and values [T, heads, K]."""
    repeats = len(q) // keys.shape[1]
    keys, values = np.repeat(keys, repeats, axis=1), np.repeat(values, repeats, axis=1)
    weights = ouro.softmax(np.einsum("hk,thk->ht", q, keys) / np.sqrt(q.shape[-1]))
    return np.einsum("ht,thk->hk", weights, values).reshape(-1)


def generated(loaded, **settings):
    settings = {"sampling": Greedy(), "max_new_tokens": NEW} | settings
    return jaxode.generate(loaded.architecture, loaded.params, words(CASE.config["vocab_size"]), PROMPT, **settings)


@pytest.mark.broad
@pytest.mark.parametrize("loops", [2, 4])
@pytest.mark.parametrize("rule", RULES)
def test_later_tokens_read_what_the_rule_says(loaded, rule, loops):
    done = generated(loaded, depth=DepthConfig(steps=loops), cache=rule)
    ids, nats = continued(PROMPT, NEW, loops, RULES[rule])
    assert list(done.ids) == ids
    np.testing.assert_allclose(done.log_probabilities, nats, atol=1e-4)


def test_rules_are_those_of_shared_slots_where_they_mean_the_same(loaded):
    assert generated(loaded, cache="last").ids == generated(loaded, cache_share=0).ids
    assert generated(loaded, cache="modulo:3").ids == generated(loaded, cache="loop").ids == generated(loaded).ids


def test_a_model_made_for_the_last_loop_reads_it_without_being_asked(loaded):
    config = loaded.config.model
    made = dataclasses.replace(config, loop=dataclasses.replace(config.loop, cache="last"))
    architecture, _ = split(nnx.eval_shape(lambda: CausalLM(made, rngs=nnx.Rngs(0))))
    own, last = (
        jaxode.generate(
            architecture, loaded.params, words(51), PROMPT, sampling=Greedy(), max_new_tokens=NEW, **settings
        )
        for settings in ({}, {"cache": "last"})
    )
    assert own.ids == last.ids
    assert own.log_probabilities == last.log_probabilities
    with pytest.raises(UserError, match=r'^cache = "last" with speculation'):
        jaxode.generate(
            architecture, loaded.params, words(51), PROMPT, speculation=Speculation((DepthConfig(steps=1),))
        )


@pytest.mark.parametrize("cache", ["every", "modulo", "modulo:0", "modulo:x", "modulo:1.5", "loop:2", ""])
def test_unknown_rules_are_refused(loaded, cache):
    with pytest.raises(UserError, match=f'^cache = "{cache}": allowed are auto, loop, last, first and modulo:k'):
        generated(loaded, cache=cache)
    with pytest.raises(UserError, match=f'^cache = "{cache}": allowed are'):
        InferConfig(cache=cache)


def test_rules_beside_other_rules_are_refused(loaded):
    with pytest.raises(UserError, match=r'^cache = "last" with cache_share = 2: both say which loops'):
        generated(loaded, cache="last", cache_share=2)
    with pytest.raises(UserError, match=r'^cache = "first" with speculation: drafts are checked many tokens at once'):
        generated(loaded, cache="first", speculation=Speculation((DepthConfig(steps=1),)))


def test_bytes_a_token_of_the_released_shapes():
    """The published figure for Ouro-1.4B in bfloat16 is 0.75 MiB a token."""
    sizes = {name: cache_bytes_per_token(released(name)) for name in ouro.RELEASED}
    assert sizes == {"ByteDance/Ouro-1.4B": 786_432, "ByteDance/Ouro-2.6B": 2 * 786_432}
    small = released("ByteDance/Ouro-1.4B")
    for cache, slots in (("loop", 4), ("last", 1), ("first", 1), ("modulo:2", 2), ("modulo:9", 4)):
        assert cache_bytes_per_token(small, cache=cache) == slots * 786_432 // 4
    assert cache_bytes_per_token(small, DepthConfig(steps=8), dtype="float32") == 2 * 2 * 786_432
    assert cache_bytes_per_token(small, cache_share=2) == 786_432 // 2


def released(name):
    config = ouro.CONFIG | ouro.RELEASED[name]
    return FAMILIES["ouro"].model(Fields(config, name, frozenset(ouro.shapes(config))))


def test_slots_are_as_large_as_is_said(loaded, tmp_path):
    """In the type of the matmuls, whatever the state is in."""
    half = from_pretrained(CASE.write(tmp_path / "half", dtype="bfloat16"))
    for model, kind in ((loaded, "float32"), (half, "bfloat16")):
        decoder = (
            Settings(depth=DepthConfig()).resolved(model.model).decoder(model.architecture, model.params, words(51))
        )
        running = Running(decoder, model.params, words(51), [PROMPT], NEW, None)
        running.prefill(DepthConfig(), [0], False)
        slots = jax.tree.leaves(running.past.slots)
        assert {slot.dtype for slot in slots} == {jnp.dtype(kind)}
        size = cache_bytes_per_token(model.config.model, dtype=kind)
        assert sum(slot.nbytes for slot in slots) == running.past.capacity * size
        assert running.shapes.bytes == running.shapes.most * size


def test_first_and_last_at_other_numbers_of_loops(loaded):
    """A prompt that was read in fewer loops fills the slots of the nearest."""
    model, unit = loaded.config.model, {"schedule": "unit"}
    four, two = DepthConfig(steps=4, **unit), DepthConfig(steps=2, **unit)
    layers = model.inner_blocks
    for cache, loop in (("first", 0), ("last", 1)):
        assert Layout(four, cache=cache).sources(model, two) == tuple(loop * layers + i for i in range(layers))
    last = Layout(four, cache="modulo:2").sources(model, two)
    assert last == tuple(layers + i for i in range(layers)) * 2
