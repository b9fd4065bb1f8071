"""Dory and HRM-Text against what their PyTorch classes computed once: logits, gradients, texts."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looped import continuation, theirs
from shapes import probe

from jaxode import UserError
from jaxode.interop import from_pretrained

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(scope="module", params=["dory", "hrm_text"])
def golden(request):
    folder = GOLDEN / request.param
    return from_pretrained(folder, dtype="float32"), dict(np.load(folder / "expected.npz"))


@pytest.mark.broad
def test_logits(golden):
    loaded, expected = golden
    np.testing.assert_allclose(loaded.model(jnp.asarray(expected["tokens"])).logits, expected["logits"], atol=1e-4)


@pytest.mark.deep
def test_gradients(golden):
    loaded, expected = golden
    tokens = jnp.asarray(expected["tokens"])

    def loss(params):
        out = loaded.architecture.bind(params)(tokens).logits
        return jnp.sum(out * probe(out.shape))

    found = jax.jit(jax.grad(loss))(loaded.params)
    names = [name.removeprefix("gradient ") for name in expected if name.startswith("gradient ")]
    assert len(names) > 4
    for name in names:
        want = expected[f"gradient {name}"]
        np.testing.assert_allclose(theirs(loaded, found, name), want, atol=1e-3 * np.abs(want).max(), err_msg=name)


@pytest.mark.broad
def test_greedy_texts_token_for_token(golden):
    """With the cache; the PyTorch classes gave the same without theirs."""
    loaded, expected = golden
    ids = continuation(loaded, expected["tokens"], expected["continuation"].shape[1])
    np.testing.assert_array_equal(ids, expected["continuation"])


def test_the_cache_of_the_last_loop_alone_is_read_as_dory_was_trained():
    loaded, expected = from_pretrained(GOLDEN / "dory", dtype="float32"), np.load(GOLDEN / "dory" / "expected.npz")
    ids = continuation(loaded, expected["tokens"], expected["last_loop"].shape[1], cache_share=0)
    np.testing.assert_array_equal(ids, expected["last_loop"])


@pytest.mark.deep
def test_a_dory_that_says_so_is_decoded_with_the_cache_of_the_last_loop(tmp_path):
    expected = np.load(GOLDEN / "dory" / "expected.npz")
    raw = json.loads((GOLDEN / "dory" / "config.json").read_text()) | {"recurrent_kv_cache_mode": "last_loop"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").write_bytes((GOLDEN / "dory" / "model.safetensors").read_bytes())
    loaded = from_pretrained(tmp_path, dtype="float32")
    new = expected["last_loop"].shape[1]
    np.testing.assert_array_equal(continuation(loaded, expected["tokens"], new), expected["last_loop"])
    ids = continuation(loaded, expected["tokens"], new, cache="loop")
    np.testing.assert_array_equal(ids, expected["continuation"])


def test_tokens_of_type_1_read_each_other_both_ways():
    loaded, expected = from_pretrained(GOLDEN / "hrm_text", dtype="float32"), np.load(GOLDEN / "hrm_text/expected.npz")
    out = loaded.model(jnp.asarray(expected["tokens"]), token_types=jnp.asarray(expected["types"]))
    np.testing.assert_allclose(out.logits, expected["prefix_logits"], atol=1e-4)
    assert np.abs(expected["prefix_logits"] - expected["logits"]).max() > 0.1


def test_prompts_are_read_both_ways_where_that_is_asked_for():
    """Ragged ones too: each as if it were alone."""
    loaded, expected = from_pretrained(GOLDEN / "hrm_text", dtype="float32"), np.load(GOLDEN / "hrm_text/expected.npz")
    want = expected["prefix_continuation"]
    rows = [expected["tokens"][0], expected["tokens"][1, :4]]
    ids = continuation(loaded, rows, want.shape[1], prefix=True)
    np.testing.assert_array_equal(ids[:1], want)
    np.testing.assert_array_equal(ids[1:], continuation(loaded, rows[1:], want.shape[1], prefix=True))
    assert (want != expected["continuation"][:1]).any()


def test_a_prefix_of_a_model_without_one_is_refused():
    loaded = from_pretrained(GOLDEN / "dory", dtype="float32")
    with pytest.raises(UserError, match=r"prefix = True with model.attention.prefix = false"):
        continuation(loaded, np.zeros((1, 3), int), 2, prefix=True)
