"""Dory and HRM-Text against the PyTorch classes themselves, with random weights, over odd configurations."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looped import continuation, theirs
from references import dory, hrm_text
from references.folder import write_folder
from shapes import probe

from jaxode.interop import from_pretrained, save_pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import looped_oracle as oracle  # noqa: E402  (needs torch)

pytestmark = pytest.mark.slow
LOGITS, GRADIENTS, NEW = 1e-4, 1e-3, 24


def dory_config(seed):
    """A random small one; the first few seeds have every count of loops and key heads, tied and untied."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([2, 4]))
    blocks = [int(rng.integers(0, 3)), int(rng.integers(1, 4)), int(rng.integers(0, 3))]
    kinds = rng.choice(["sliding_attention", "full_attention"], sum(blocks)).tolist()
    return dory.CONFIG | {
        "head_dim": int(rng.choice([4, 6, 10])),
        "hidden_size": int(rng.choice([12, 20])),
        "intermediate_size": int(rng.integers(9, 40)),
        "layer_types": [kind for pair in kinds for kind in (pair, "mlp")],
        "n_input_layers": 2 * blocks[0],
        "n_recurrent_layers": 2 * blocks[1],
        "n_output_layers": 2 * blocks[2],
        "n_recurrent_loops": 1 + seed % 3,
        "num_attention_heads": heads,
        "num_hidden_layers": 2 * sum(blocks),
        "num_key_value_heads": (1, heads, heads // 2)[seed % 3],
        # with a window of 1 transformers' own cache keeps all, and gives another text than without
        "sliding_window": int(rng.integers(2, 9)),
        "tie_word_embeddings": bool(seed % 2),
    }


def hrm_config(seed):
    """A random small one."""
    rng = np.random.default_rng(seed)
    cycles, low, layers = 1 + seed % 3, int(rng.integers(1, 4)), int(rng.integers(1, 3))
    return hrm_text.CONFIG | {
        "H_cycles": cycles,
        "L_bp_cycles": [low] * cycles,
        "L_cycles": low,
        "embedding_scale": (None, 1.7)[seed % 2],
        "head_dim": int(rng.choice([4, 6, 10])),
        "hidden_size": int(rng.choice([12, 20])),
        "intermediate_size": int(rng.integers(9, 40)),
        "num_attention_heads": int(rng.choice([1, 2, 4])),
        "num_hidden_layers": layers * cycles * (low + 1),
        "num_layers_per_stack": layers,
        "prefix_lm": bool(seed // 2 % 2),
        "tie_word_embeddings": bool((seed + 1) % 2),
    }


@pytest.fixture(scope="module", params=[f"{name} {seed}" for name in ("dory", "hrm_text") for seed in range(6)])
def pair(request, tmp_path_factory):
    """The PyTorch model and ours of one folder, written as it is released."""
    name, seed = request.param.split()
    reference, config = (dory, dory_config(int(seed))) if name == "dory" else (hrm_text, hrm_config(int(seed)))
    config = {key: value for key, value in config.items() if value is not None}
    folder = tmp_path_factory.mktemp("looped")
    write_folder(folder, config, reference.random_tensors(config, int(seed)))
    return oracle.load(folder), from_pretrained(folder, dtype="float32")


def tokens_of(loaded, rows=2, length=9):
    return np.random.default_rng(0).integers(0, loaded.config.model.vocab_size, (rows, length))


@pytest.mark.broad
def test_logits_and_gradients(pair):
    model, loaded = pair
    tokens = tokens_of(loaded)

    def loss(params):
        out = loaded.architecture.bind(params)(jnp.asarray(tokens)).logits
        return jnp.sum(out * probe(out.shape)), out

    found, logits = jax.jit(jax.grad(loss, has_aux=True))(loaded.params)
    want = oracle.logits(model, tokens)
    np.testing.assert_allclose(logits, want.detach().numpy(), rtol=0, atol=LOGITS)
    expected = oracle.gradients(model, want)
    assert len(expected) == sum(1 for _ in model.parameters())
    for name, value in expected.items():
        have = theirs(loaded, found, name)
        np.testing.assert_allclose(have, value, rtol=0, atol=GRADIENTS * np.abs(value).max(), err_msg=name)


@pytest.mark.broad
def test_greedy_texts_token_for_token(pair):
    model, loaded = pair
    tokens = tokens_of(loaded)
    ids = continuation(loaded, tokens, NEW)
    for cached in (True, False):
        np.testing.assert_array_equal(ids, oracle.continuation(model, tokens, NEW, use_cache=cached))


@pytest.mark.broad
def test_greedy_texts_with_the_cache_of_the_last_loop(pair):
    model, loaded = pair
    if loaded.source["model_type"] != "dory":
        pytest.skip("Dory's own")
    tokens = tokens_of(loaded)
    model.config.recurrent_kv_cache_mode = "last_loop"
    want = oracle.continuation(model, tokens, NEW, use_cache=True)
    model.config.recurrent_kv_cache_mode = "per_loop"
    np.testing.assert_array_equal(continuation(loaded, tokens, NEW, cache_share=0), want)


def test_tokens_of_type_1(pair):
    model, loaded = pair
    if not loaded.config.model.attention.prefix:
        pytest.skip("without a prefix")
    tokens = tokens_of(loaded)
    types = (np.arange(9) < np.array([[9], [4]])).astype(np.int64)
    out = loaded.model(jnp.asarray(tokens), token_types=jnp.asarray(types)).logits
    want = oracle.logits(model, tokens, token_type_ids=types).detach().numpy()
    np.testing.assert_allclose(out, want, rtol=0, atol=LOGITS)


@pytest.mark.broad
def test_padding(pair):
    """Rows padded on the right and on the left."""
    model, loaded = pair
    tokens = tokens_of(loaded, rows=3)
    real = np.ones_like(tokens)
    real[1, 6:], real[2, :4] = 0, 0
    out = loaded.model(jnp.asarray(tokens), segments=jnp.asarray(real)).logits
    want = oracle.logits(model, tokens, attention_mask=real).detach().numpy()
    for row in (0, 1):
        np.testing.assert_allclose(out[row][real[row] == 1], want[row][real[row] == 1], rtol=0, atol=LOGITS)
    alone = loaded.model(jnp.asarray(tokens[2:, 4:])).logits[0]
    np.testing.assert_allclose(out[2, 4:], alone, rtol=0, atol=LOGITS)


@pytest.mark.broad
def test_what_transformers_writes_is_read(pair, tmp_path):
    """Names of the release, and those of memory."""
    model, loaded = pair
    for original in (True, False):
        model.save_pretrained(tmp_path / str(original), save_original_format=original)
        again = from_pretrained(tmp_path / str(original), dtype="float32")
        assert again.config.model == loaded.config.model
        assert again.params.keys() == loaded.params.keys()
        assert all(bool((again.params[name] == value).all()) for name, value in loaded.params.items())


@pytest.mark.broad
def test_what_is_written_gives_the_same_logits_in_pytorch(pair, tmp_path):
    model, loaded = pair
    tokens = tokens_of(loaded)
    save_pretrained(loaded, tmp_path / "out")
    again = oracle.load(tmp_path / "out")
    torch.testing.assert_close(oracle.logits(again, tokens), oracle.logits(model, tokens), rtol=0, atol=0)
    ours, own = (json.loads(config.to_json_string()) for config in (again.config, model.config))
    changed = {name for name in own if ours.get(name) != own[name]} - {"_name_or_path"}
    # where it was left out it is written
    assert changed <= {"embedding_scale"}


@pytest.mark.parametrize("name", ["dory", "hrm_text"])
def test_released_shapes_have_as_many_parameters_in_pytorch(name):
    reference, kind = (dory, "DoryForCausalLM") if name == "dory" else (hrm_text, "HrmTextForCausalLM")
    for raw in reference.RELEASED.values():
        config = transformers.AutoConfig.for_model(
            **{key: value for key, value in raw.items() if key != "architectures"}
        )
        with torch.device("meta"):
            model = getattr(transformers, kind)(config)
        assert sum(value.numel() for value in model.parameters()) == reference.parameters(raw)
