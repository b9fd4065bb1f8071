"""A Hugging Face ALBERT gives PyTorch's logits and gradients, comes back unchanged, and is refused in one line."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shapes import probe

from jaxode import DepthConfig, UserError, calibrate, from_pretrained, save_pretrained
from jaxode.calibration import Fit, with_calibrations
from jaxode.config import AttentionConfig, LoopConfig
from jaxode.data import Batch
from jaxode.interop import albert_tensors, files
from jaxode.interop.albert_config import group_sizes
from jaxode.model import Encoder, MaskedLM, SequenceClassifier

GOLDEN = Path(__file__).with_name("golden")
NAMES = {"groups": MaskedLM, "square": SequenceClassifier, "untied": MaskedLM}
UNROLL = DepthConfig(adjoint="unroll")


@pytest.fixture(scope="module")
def read():
    """Golden models by name, each read once."""
    return {name: from_pretrained(GOLDEN / name) for name in NAMES}


@pytest.fixture
def copy(tmp_path):
    """A masked model to damage."""
    return shutil.copytree(GOLDEN / "groups", tmp_path / "model")


def inputs(expected):
    tokens, mask, types = (jnp.asarray(expected[name]) for name in ("tokens", "mask", "types"))
    return tokens, {"segments": mask, "token_types": types}


def rewrite(folder, **changes):
    path = folder / "config.json"
    raw = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(raw))


def refused(folder, *args):
    with pytest.raises(UserError) as caught:
        from_pretrained(folder, *args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.broad
@pytest.mark.parametrize("name", NAMES)
def test_logits_states_and_gradients_are_those_of_pytorch(name, read):
    """Padded rows included, and at padded positions too."""
    found, expected = read[name], np.load(GOLDEN / name / "expected.npz")
    assert type(found.model) is NAMES[name]
    tokens, rest = inputs(expected)
    weights = jnp.asarray(probe(expected["logits"].shape))

    def loss(params):
        out = found.architecture.bind(params)(tokens, UNROLL, **rest)
        return jnp.sum(out.logits * weights), out

    gradient, out = jax.grad(loss, has_aux=True)(found.params)
    np.testing.assert_allclose(out.logits, expected["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(out.state, expected["states"], rtol=0, atol=2e-5)
    theirs = albert_tensors.write(found.config.model, gradient, "albert.")
    kept = [key for key in expected.files if key.startswith("gradient ")]
    assert len(kept) >= 4
    for key in kept:
        tensor = key.removeprefix("gradient ")
        # PyTorch gives the padding token's row no gradient from the lookup
        rows = slice(1, None) if tensor.endswith("word_embeddings.weight") else slice(None)
        assert np.abs(expected[key][rows]).max() > 1e-3, tensor
        np.testing.assert_allclose(theirs[tensor][rows], expected[key][rows], rtol=0, atol=2e-5, err_msg=tensor)


def test_a_bare_encoder_gives_states_and_a_pooled_vector(read):
    expected = np.load(GOLDEN / "square" / "expected.npz")
    tokens, rest = inputs(expected)
    found = from_pretrained(GOLDEN / "square", task="encoder")
    assert isinstance(found.model, Encoder)
    out = found.model(tokens, UNROLL, **rest)
    np.testing.assert_allclose(out.state, expected["states"], rtol=0, atol=2e-5)
    classifier = read["square"].model.head.classifier
    np.testing.assert_allclose(classifier(out.pooled), expected["logits"], rtol=0, atol=2e-5)
    # a masked model's file holds no pooler
    bare = from_pretrained(GOLDEN / "groups", task="encoder").model
    assert bare(jnp.ones((1, 4), int), UNROLL).pooled is None


def test_layers_fall_into_groups_as_in_albert():
    assert group_sizes(5, 2) == (3, 2)
    assert group_sizes(12, 5) == (3, 2, 3, 2, 2)
    assert group_sizes(12, 4) == (3, 3, 3, 3)
    for layers in range(1, 49):
        for groups in range(1, layers + 1):
            sizes = group_sizes(layers, groups)
            assert sum(sizes) == layers
            assert min(sizes) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name, read, tmp_path):
    save_pretrained(read[name], tmp_path / "out")
    first, second = (load_file(folder / "model.safetensors") for folder in (GOLDEN / name, tmp_path / "out"))
    assert first.keys() == second.keys()
    if name == "untied":
        # PyTorch reads the decoder's own bias; the other one is left over
        first["predictions.bias"] = first["predictions.decoder.bias"]
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value.astype(np.float32), err_msg=key)
    raw, back = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path / "out"))
    assert back == raw | {"dtype": "float32"}
    assert from_pretrained(tmp_path / "out").architecture == read[name].architecture
    with pytest.raises(UserError, match="already there and not empty"):
        save_pretrained(read[name], tmp_path / "out")


def test_other_numbers_are_written_where_params_were_replaced(read, tmp_path):
    params = {name: 2 * value for name, value in read["square"].params.items()}
    save_pretrained(dataclasses.replace(read["square"], params=params), tmp_path / "out")
    again = from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(again.params["head.pooler.bias"], params["head.pooler.bias"])


def test_an_encoder_is_written_without_the_prefix_of_a_task(tmp_path):
    found = from_pretrained(GOLDEN / "square", task="encoder")
    save_pretrained(found, tmp_path / "out")
    assert not any(name.startswith("albert.") for name in load_file(tmp_path / "out" / "model.safetensors"))
    again = from_pretrained(tmp_path / "out")
    assert again.task == "encoder"
    assert again.params.keys() == found.params.keys()


def test_a_model_that_is_no_albert_is_not_written(read, tmp_path):
    def changed(**changes):
        config = dataclasses.replace(read["square"].config.model, **changes)
        return dataclasses.replace(read["square"], config=dataclasses.replace(read["square"].config, model=config))

    for changes, message in (
        ({"norm_position": "pre"}, "model.norm_position = 'pre': ALBERT has 'post'"),
        ({"coda": 1}, "model.coda = 1: ALBERT has 0"),
        ({"bias": "none"}, "model.bias = 'none': ALBERT has 'all'"),
        ({"embedding_scale": 4.0}, "model.embedding_scale = 4.0: ALBERT has 1.0"),
        ({"attention": AttentionConfig(window=4)}, "model.attention.window = 4: ALBERT has 0"),
        ({"attention": AttentionConfig(head_width=4)}, "model.attention.head_width = 4: ALBERT has 8"),
        ({"loop": LoopConfig(start="zeros")}, "model.loop.start = 'zeros': ALBERT has 'entered'"),
        ({"loop": LoopConfig(streams=2)}, "model.loop.streams = 2: ALBERT has 1"),
        ({"feed_forward": "swiglu"}, 'model.feed_forward = "swiglu": ALBERT has none'),
        ({"kv_heads": 1}, "model.kv_heads = 1"),
        ({"sharing": "sequence", "groups": 2, "group_steps": "1,2"}, "ALBERT divides 3 layers as (2, 1)"),
    ):
        with pytest.raises(UserError) as caught:
            save_pretrained(changed(**changes), tmp_path / "out")
        assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


# --- files ------------------------------------------------------------------------------------------------------------


def test_weights_in_parts(copy, read):
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, copy / part)
    weight_map = {name: part for part, inside in parts.items() for name in inside}
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (copy / "model.safetensors").unlink()
    found = from_pretrained(copy)
    assert all(bool((found.params[name] == value).all()) for name, value in read["groups"].params.items())
    (copy / "model-2.safetensors").unlink()
    assert "model-2.safetensors: missing, though model.safetensors.index.json names it" in refused(copy)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../model-1.safetensors")}))
    assert "in the same folder" in refused(copy)


def test_heads_of_other_tasks_and_buffers_are_left_out(copy, read):
    tensors = load_file(copy / "model.safetensors")
    extra = {
        "albert.embeddings.position_ids": np.arange(16)[None],
        "albert.pooler.weight": np.zeros((24, 24), np.float32),
        "sop_classifier.classifier.weight": np.zeros((2, 24), np.float32),
        # copies of tied tensors
        "predictions.decoder.weight": tensors["albert.embeddings.word_embeddings.weight"],
        "predictions.decoder.bias": tensors["predictions.bias"],
    }
    save_file(tensors | extra, copy / "model.safetensors")
    assert from_pretrained(copy).params.keys() == read["groups"].params.keys()


def test_tensors_that_do_not_fit_are_named(copy):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    query = "encoder.albert_layer_groups.1.albert_layers.0.attention.query.weight"
    save_file({k: v for k, v in tensors.items() if k != f"albert.{query}"}, path)
    assert f"{copy}: tensor {query} is missing; the weights do not fit config.json or the task" in refused(copy)
    save_file(tensors | {"albert.encoder.adapter.weight": np.zeros((2, 2), np.float32)}, path)
    assert "tensor encoder.adapter.weight is unknown to the model" in refused(copy)
    save_file(tensors | {f"albert.{query}": np.zeros((24, 20), np.float32)}, path)
    assert f"tensor {query} has shape [24, 20], the model needs [24, 24]" in refused(copy)
    save_file(tensors, path)
    assert "tensor classifier.bias is missing; the weights do not fit config.json or the task" in refused(
        copy, "classifier"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type = 'bert': no looped model that is read; allowed are albert"),
        ({"model_type": None}, "model_type = None"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish': allowed are gelu,"),
        ({"hidden_size": "24"}, "hidden_size = '24': must be a whole number"),
        ({"num_attention_heads": 5}, "config.json: model.width = 24 is not divisible by model.heads = 5"),
        ({"num_hidden_groups": 6}, "num_hidden_groups = 6: must be at most num_hidden_layers = 5"),
        ({"layer_norm_eps": None, "vocab_size": 60}, "tensor embeddings.word_embeddings.weight has shape [61, 12]"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"architectures": None}, "names no architectures: choose a task (masked, classifier, token_classifier, "),
        ({"architectures": ["AlbertForMultipleChoice"]}, "architectures = ['AlbertForMultipleChoice']"),
    ],
)
def test_a_config_that_is_not_supported_is_refused_by_name(copy, changes, message):
    rewrite(copy, **changes)
    assert message in refused(copy)


def test_missing_and_damaged_files_are_named(copy):
    allowed = "masked, classifier, token_classifier, question_answering, encoder"
    assert f'task = "causal": allowed are {allowed}' in refused(copy, "causal")
    (copy / "model.safetensors").write_bytes(b"no tensors")
    assert "model.safetensors: cannot be read as safetensors" in refused(copy)
    (copy / "model.safetensors").unlink()
    assert "holds no weights: neither model.safetensors nor pytorch_model.bin" in refused(copy)
    (copy / "config.json").write_text("{")
    assert "config.json: cannot be read as JSON" in refused(copy)
    (copy / "config.json").unlink()
    assert f"{copy / 'config.json'}: missing" in refused(copy)
    assert "no such run folder" in refused(copy / "nowhere")
    assert "no such run folder" in refused("./nowhere")


def test_pytorch_weights_without_torch_say_what_to_install(copy, monkeypatch):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'needs torch: pip install "jaxode[torch]"' in refused(copy)


def test_a_name_is_taken_from_the_cache_and_fails_at_once_without_network(monkeypatch, tmp_path, read):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "hub_reachable", lambda: False)
    import huggingface_hub

    download, looked = huggingface_hub.snapshot_download, []

    def watched(*names, **flags):
        looked.append(flags.get("local_files_only", False))
        return download(*names, **flags)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    assert "author/albert: not on this machine, and the Hugging Face hub cannot be reached" in refused("author/albert")
    # anything more would be the hub client's retries of most of a minute
    assert looked == [True]
    repository = tmp_path / "models--author--albert"
    shutil.copytree(GOLDEN / "groups", repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert from_pretrained("author/albert").architecture == read["groups"].architecture


# --- one of jaxode's own models ---------------------------------------------------------------------------------------


@pytest.mark.deep
def test_fewer_steps_traces_and_calibration_work_on_it(read):
    """Groups of 3 and 2 layers in 3 steps: 2 and 1."""
    found = read["groups"]
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(3):
        tokens = rng.integers(4, 61, (2, 8)).astype(np.int32)
        weights = (rng.random((2, 8)) < 0.5).astype(np.float32)
        batches.append(Batch(np.where(weights > 0, 1, tokens), tokens, weights, np.ones((2, 8), np.int32)))
    tokens = jnp.asarray(batches[0].tokens)
    short = found.model(tokens, DepthConfig(steps=3), trace=True)
    assert short.block_evaluations == 2 * 3
    np.testing.assert_allclose(short.trace.times, [0, 1.5, 3, 5])
    full = found.model(tokens)
    done = calibrate(found.model, batches, 3, Fit(rank=4, candidates=1, updates=4), held_out=1)
    assert sum(done.schedule) == 5
    model = found.architecture.bind(with_calibrations(found.params, {3: done}))
    fitted = model(tokens, done.depth).state
    # on the text of the fit the fitted solve ends nearer to the full one than the plain one does
    assert float(jnp.abs(fitted - full.state).mean()) < 0.8 * float(jnp.abs(short.state - full.state).mean())
    encoder = from_pretrained(GOLDEN / "square", task="encoder").model
    done = calibrate(encoder, batches, 2, Fit(rank=4, candidates=1, updates=4), held_out=1)
    assert done.kl is None
    assert 0 < done.error < np.inf
