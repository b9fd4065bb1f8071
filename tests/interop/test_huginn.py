"""Huginn and its retrofits: the state that begins as noise, variants told apart by their tensors, refusals."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
from families import CASES
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from references import huginn, retrofit, retrofit_olmo
from references.folder import write_folder
from references.words import words
from safetensors.numpy import load_file

import jaxode
from jaxode import DepthConfig, UserError
from jaxode.interop import from_pretrained, save_pretrained
from jaxode.interop.families import FAMILIES
from jaxode.interop.families.family import Fields
from jaxode.model.loop import noise

TOKENS = np.random.default_rng(0).integers(0, 40, (2, 8)).astype(np.int32)
NOISE = DepthConfig()
SIZE = math.sqrt(2 / 5)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return from_pretrained(CASES["huginn"].write(tmp_path_factory.mktemp("huginn")))


def logits(loaded, tokens, depth=NOISE, **options):
    return np.asarray(loaded.model(jnp.asarray(tokens), depth, **options).logits)


def read(config, tensors=None):
    config = huginn.CONFIG | config
    names = huginn.shapes(config) if tensors is None else tensors
    return FAMILIES["huginn_raven"].model(Fields(config, "config.json", frozenset(names)))


def test_begins_with_noise_of_its_size_cut_off_at_three_of_it(loaded):
    assert loaded.config.model.loop.start_size == pytest.approx(SIZE)
    draws = SIZE * np.stack([noise(0, place, 5280) for place in range(8)])
    assert np.abs(draws).max() <= 3 * SIZE
    # the cut leaves 0.9733 of the variance
    assert np.std(draws) == pytest.approx(SIZE * math.sqrt(0.9733), rel=0.01)
    assert np.abs(np.corrcoef(draws) - np.eye(8)).max() < 0.1


def test_from_noise_the_logits_are_those_of_the_reference(loaded):
    s0 = SIZE * np.stack([noise(3, place, 24) for place in range(8)])
    wanted = huginn.forward(huginn.CONFIG, CASES["huginn"].tensors(), TOKENS, s0=np.stack([s0, s0])).logits
    np.testing.assert_allclose(logits(loaded, TOKENS, DepthConfig(start_seed=3)), wanted, atol=1e-4)


def test_a_seed_is_a_result_and_zeros_are_another(loaded):
    first = logits(loaded, TOKENS)
    np.testing.assert_array_equal(logits(loaded, TOKENS), first)
    for depth in (DepthConfig(start_seed=1), DepthConfig(start="zeros")):
        assert np.abs(logits(loaded, TOKENS, depth) - first).max() > 1e-3
    zeros = logits(loaded, TOKENS, DepthConfig(start="zeros"))
    np.testing.assert_array_equal(logits(loaded, TOKENS, DepthConfig(start="zeros", start_seed=1)), zeros)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.deep
def test_the_noise_of_a_token_is_that_of_its_place_in_any_batch_and_padding(loaded, side):
    alone = logits(loaded, TOKENS[1:, :5])[0]
    pad, first = ((0, 3), 0) if side == "right" else ((3, 0), 3)
    rows = np.stack([TOKENS[0], np.pad(TOKENS[1, :5], pad)])
    real = jnp.asarray(np.stack([np.ones(8, np.int32), np.pad(np.ones(5, np.int32), pad)]))
    padded = logits(loaded, rows, segments=real)
    np.testing.assert_allclose(padded[1, first : first + 5], alone, atol=1e-5)
    np.testing.assert_allclose(padded[0], logits(loaded, TOKENS[:1])[0], atol=1e-5)


def test_the_noise_is_the_same_on_any_number_of_devices(loaded):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x, places = jnp.zeros((8, 5, 24)), jnp.broadcast_to(jnp.arange(5), (8, 5))
    start = jax.jit(lambda x, places: loaded.model.stack.start(x, places, 0, False))
    cut = jax.device_put((x, places), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(start(*cut), start(x, places))


def test_documents_in_a_row_go_on_counting_their_places(loaded):
    """As decoding does after a prompt of several documents."""
    both = jnp.asarray([[1] * 3 + [2] * 5] * 2)
    x, context = loaded.model.start(jnp.asarray(TOKENS), segments=both)
    state, _ = loaded.model.stack.begin(x, NOISE, context)
    np.testing.assert_allclose(state[0], SIZE * np.stack([noise(0, place, 24) for place in range(8)]), rtol=1e-6)


@pytest.mark.deep
def test_decoding_with_the_cache_is_the_forward_pass_from_noise_too(loaded):
    prompts = [TOKENS[0, :7].tolist(), TOKENS[1, :4].tolist()]

    def generate(rows):
        done = jaxode.generate_batch(
            loaded.architecture,
            loaded.params,
            words(huginn.CONFIG["vocab_size"]),
            rows,
            depth=DepthConfig(start_seed=5),
            sampling=jaxode.inference.Greedy(),
            max_new_tokens=6,
        )
        return [list(row.ids) for row in done]

    for prompt, ids in zip(prompts, generate(prompts), strict=True):
        best = np.argmax(logits(loaded, [[*prompt, *ids]], DepthConfig(start_seed=5))[0], axis=-1)
        assert ids == best[len(prompt) - 1 : -1].tolist()
        assert generate([prompt]) == [ids]


@pytest.mark.deep
def test_gradients_from_noise_reach_every_parameter(loaded):
    def loss(params):
        return jnp.sum(jnp.square(loaded.architecture.bind(params)(jnp.asarray(TOKENS)).logits))

    gradients = jax.grad(loss)(loaded.params)
    assert [name for name, value in gradients.items() if not jnp.any(value)] == []
    # the state is concatenated first: its half of the adapter sees noise in the first loop already
    once = jax.grad(
        lambda params: jnp.sum(loaded.architecture.bind(params)(jnp.asarray(TOKENS), DepthConfig(steps=1)).logits)
    )(loaded.params)
    assert jnp.all(jnp.any(once["stack.loop.adapter.kernel"], axis=1))


def test_the_buffer_and_the_second_copy_may_be_away(loaded, tmp_path):
    tensors = CASES["huginn"].tensors()
    for name in ("freqs_cis", "lm_head.weight"):
        del tensors[name]
    huginn_less = from_pretrained(write_folder(tmp_path / "less", huginn.CONFIG, tensors))
    np.testing.assert_array_equal(logits(huginn_less, TOKENS), logits(loaded, TOKENS))
    save_pretrained(huginn_less, tmp_path / "written")
    written = load_file(tmp_path / "written" / "model.safetensors")
    np.testing.assert_array_equal(written["lm_head.weight"], written["transformer.wte.weight"])


def test_copies_that_differ_are_refused_by_the_field_that_ties_them(tmp_path):
    tensors = CASES["huginn"].tensors()
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    with pytest.raises(
        UserError, match=r"lm_head.weight and transformer.wte.weight differ.*set tie_embeddings to false"
    ):
        from_pretrained(write_folder(tmp_path / "untied", huginn.CONFIG, tensors))


def test_tensors_tell_whose_layers_they_are():
    found = {kind: read(kind.CONFIG, kind.shapes(kind.CONFIG)) for kind in (huginn, retrofit, retrofit_olmo)}
    assert [model.norm_position for model in found.values()] == ["sum", "pre", "branch"]
    assert [model.attention.norm for model in found.values()] == ["none", "none", "whole"]
    assert [model.attention.rotary_pairs for model in found.values()] == ["neighbours", "halves", "halves"]
    assert [model.loop.exit_norm for model in found.values()] == [True, False, False]
    assert [model.length for model in found.values()] == [24, 64, 64]


def test_noise_and_embedding_are_scaled_as_the_config_says():
    model = read({})
    assert (model.embedding_scale, model.loop.start_size) == pytest.approx((math.sqrt(24), SIZE))
    # a retrofit's embedding is not multiplied, and so its noise is not
    model = read(retrofit.CONFIG, retrofit.shapes(retrofit.CONFIG))
    assert (model.embedding_scale, model.loop.start_size) == pytest.approx((1.0, 0.0087))


@pytest.mark.broad
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", ["recurrent-llama", "huginn", "nanbeige", "loopformer"])
def test_ids_of_special_tokens_are_those_of_the_tokenizer(tmp_path, name, named, capfd):
    """The config of a retrofit names Huginn's, beyond its vocabulary; transformers knows none of these models."""
    folder = CASES[name].write(tmp_path)
    vocabulary = {f"w{index}": index for index in range(44)} | {"</s>": 44}
    hf.Tokenizer(hf.models.WordLevel(vocabulary)).save(str(folder / "tokenizer.json"))
    roles = {"eos_token": "</s>"} | ({"tokenizer_class": "PreTrainedTokenizerFast"} if named else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    tokenizer = from_pretrained(folder).tokenizer
    assert tokenizer is not None
    assert (tokenizer.end_id, tokenizer.pad_id) == (44, 44)
    # no code of theirs is offered to be run
    assert capfd.readouterr() == ("", "")


def test_a_padded_vocabulary_is_that_of_the_tensors():
    assert read({"vocab_size": 45, "padded_vocab_size": 48}, huginn.shapes(huginn.CONFIG)).vocab_size == 48


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"injection_type": "add"}, "injection_type = 'add': only 'linear' is read"),
        ({"state_init": "zero"}, "state_init = 'zero': only 'like-init' is read"),
        ({"nonlin_name": "ReLU"}, "nonlin_name = 'ReLU': only 'SiLU' is read"),
        ({"bias": True}, "bias = True: only False is read"),
        ({"test_time_noise": 0.1}, "test_time_noise = 0.1: only 0"),
        ({"head_dim": 8}, "head_dim = 8: only 6 is read"),
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2: Huginn's layers have as many as n_heads = 4"),
        ({"mean_recurrence": 0}, "mean_recurrence = 0: must be a whole number from 1"),
        ({"init_values": 3}, "init_values = 3: must be a table"),
        ({"init_values": {"embed_scale": -1}}, "init_values: embed_scale = -1: must be a positive number"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        read(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_bias": True}, "qk_bias = true: only the layers of Huginn itself"),
        ({"rope_scaling": 2}, "rope_scaling = 2: must be a table, or null"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling: rope_type = 'yarn': only 'llama3' is read"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling: factor is missing"),
    ],
)
def test_what_is_not_read_of_a_retrofit_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        read(retrofit.CONFIG | changes, retrofit.shapes(retrofit.CONFIG))


def test_a_config_without_init_values_stays_without(loaded, tmp_path):
    save_pretrained(loaded, tmp_path / "written")
    assert "init_values" not in json.loads((tmp_path / "written" / "config.json").read_text())
