"""Against the PyTorch classes themselves, with random weights: every task, odd shapes, and those of base and large."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import BASE, CLASSES, LARGE, ODD, SMALL, batch, probe

from jaxode import DepthConfig, UserError, from_pretrained, save_pretrained
from jaxode.interop import albert_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import oracle  # noqa: E402  (needs torch)

pytestmark = pytest.mark.slow
LOGITS, GRADIENTS = 1e-4, 1e-3
DEPTH = DepthConfig(adjoint="remat")


def compared(model, task, config, folder, length):
    """Largest differences of outputs and of gradients, over every element of every tensor."""
    model.save_pretrained(folder)
    given = tokens, mask, types = batch(config["vocab_size"], config.get("type_vocab_size", 2), length)
    want = oracle.run(model, *given)
    theirs = oracle.gradients(model, want)
    found = from_pretrained(folder)
    assert found.task == task

    def loss(params):
        run = found.architecture.bind(params)
        out = run(jnp.asarray(tokens), DEPTH, segments=jnp.asarray(mask), token_types=jnp.asarray(types))
        have = (out.state, out.pooled) if task == "encoder" else (out.logits,)
        return sum(jnp.sum(one * probe(one.shape)) for one in have), have

    gradient, have = jax.jit(jax.grad(loss, has_aux=True))(found.params)
    outputs = max(float(np.abs(a - b.detach().numpy()).max()) for a, b in zip(have, want, strict=True))
    ours = albert_tensors.write(found.config.model, gradient, "" if task == "encoder" else "albert.")
    assert theirs.keys() <= ours.keys()
    differences = {}
    for name, value in theirs.items():
        # PyTorch gives the padding token's row no gradient from the lookup
        rows = slice(1, None) if name.endswith("word_embeddings.weight") else slice(None)
        differences[name] = float(np.abs(ours[name][rows] - value[rows]).max())
    largest = max(float(np.abs(value).max()) for value in theirs.values())
    return outputs, max(differences.values()), max(float(one.detach().abs().max()) for one in want), largest


@pytest.mark.broad
@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("name", ODD)
def test_odd_shapes(name, task, tmp_path):
    config = SMALL | ODD[name]
    outputs, gradients, size, _ = compared(oracle.make(config, task), task, config, tmp_path / "model", 9)
    assert size > 0.1
    assert outputs <= LOGITS
    assert gradients <= GRADIENTS


@pytest.mark.broad
@pytest.mark.parametrize("task", ["masked", "classifier"])
@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_the_shapes_of_base_and_large(config, task, tmp_path):
    outputs, gradients, size, largest = compared(oracle.make(config, task), task, config, tmp_path / "model", 16)
    # so that the bounds mean something
    assert min(size, largest) > 1
    assert outputs <= LOGITS
    assert gradients <= GRADIENTS


@pytest.mark.broad
@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("name", ["groups", "untied"])
def test_what_is_written_gives_the_same_logits_in_pytorch(name, task, tmp_path):
    config = SMALL | ODD[name]
    model = oracle.make(config, task)
    model.save_pretrained(tmp_path / "in")
    save_pretrained(from_pretrained(tmp_path / "in"), tmp_path / "out")
    kind = getattr(transformers, CLASSES[task])
    again, about = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    given = batch(config["vocab_size"], config["type_vocab_size"], 9)
    for one, two in zip(oracle.run(model, *given), oracle.run(again.eval(), *given), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_pytorch_weights_whole_and_in_parts(tmp_path):
    model = oracle.make(SMALL, "masked")
    model.save_pretrained(tmp_path)
    first = from_pretrained(tmp_path).params
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    names = list(state)
    second = from_pretrained(tmp_path).params
    (tmp_path / "pytorch_model.bin").unlink()
    for part, inside in (("a.bin", names[:10]), ("b.bin", names[10:])):
        torch.save({name: state[name] for name in inside}, tmp_path / part)
    where = dict.fromkeys(names[:10], "a.bin") | dict.fromkeys(names[10:], "b.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    for params in (second, from_pretrained(tmp_path).params):
        assert params.keys() == first.keys()
        assert all(bool((params[name] == value).all()) for name, value in first.items())


class Trap:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_of_other_things_is_refused_and_not_run(tmp_path):
    oracle.make(SMALL, "masked").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    sprung = tmp_path / "sprung"
    torch.save({"weight": Trap(str(sprung))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read as PyTorch tensors alone"):
        from_pretrained(tmp_path)
    assert not sprung.exists()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(sprung))))
    with pytest.raises(UserError, match="cannot be read as PyTorch tensors alone"):
        from_pretrained(tmp_path)
    assert not sprung.exists()


def test_a_decoder_that_differs_from_the_table_is_read_as_pytorch_reads_it(tmp_path):
    """Whatever config.json says about tying."""
    config = SMALL | {"tie_word_embeddings": False}
    oracle.make(config, "masked").save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    given = tokens, mask, types = batch(61, 2, 9)
    want = oracle.run(transformers.AlbertForMaskedLM.from_pretrained(tmp_path).eval(), *given)[0]
    model = from_pretrained(tmp_path).model
    have = model(jnp.asarray(tokens), DEPTH, segments=jnp.asarray(mask), token_types=jnp.asarray(types)).logits
    np.testing.assert_allclose(have, want.detach().numpy(), rtol=0, atol=LOGITS)


def test_bfloat16_weights(tmp_path):
    model = oracle.make(SMALL, "masked").bfloat16()
    model.save_pretrained(tmp_path)
    found = from_pretrained(tmp_path).params["head.bias"]
    np.testing.assert_array_equal(found, model.predictions.bias.detach().float().numpy())
