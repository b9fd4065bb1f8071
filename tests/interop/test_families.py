"""Every family of looped models against its reference in NumPy: logits, files, generation, refusals."""

import dataclasses
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import CASES
from references import dory, hrm_text, huginn, loopformer, nanbeige, ouro, retrofit
from references.words import words
from safetensors.numpy import load_file

import jaxode
from jaxode import DepthConfig, UserError
from jaxode.config.size import num_parameters
from jaxode.interop import from_pretrained, model_config, save_pretrained
from jaxode.interop.families import FAMILIES, REFUSED
from jaxode.interop.families.family import Fields

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    return case.write(tmp_path_factory.mktemp("family"), shards=2)


@pytest.fixture(scope="module")
def loaded(folder):
    return from_pretrained(folder)


@partial(jax.jit, static_argnames=("architecture", "depth"))
def forward(params, tokens, segments, *, architecture, depth):
    """One compilation for all tests of a case that run the same shapes."""
    return architecture.bind(params)(tokens, depth, segments=segments).logits


def logits_of(loaded, tokens, depth, segments=None):
    return forward(loaded.params, jnp.asarray(tokens), segments, architecture=loaded.architecture, depth=depth)


def tokens_of(case, rows=2, length=9, seed=0):
    return np.random.default_rng(seed).integers(0, case.config["vocab_size"], (rows, length)).astype(np.int32)


@pytest.mark.broad
def test_logits_are_those_of_the_reference(case, loaded):
    tokens = tokens_of(case)
    np.testing.assert_allclose(logits_of(loaded, tokens, case.at()), case.logits(tokens), atol=TOLERANCE)


@pytest.mark.broad
def test_at_any_number_of_loops(case, loaded):
    tokens = tokens_of(case)
    for loops in (1, case.more):
        found = logits_of(loaded, tokens, case.at(loops))
        np.testing.assert_allclose(found, case.logits(tokens, loops=loops), atol=TOLERANCE)


@pytest.mark.broad
def test_loops_that_are_asked_for_when_it_is_read(case, folder):
    tokens = tokens_of(case)
    found = logits_of(from_pretrained(folder, loops=case.more), tokens, case.at())
    np.testing.assert_allclose(found, case.logits(tokens, loops=case.more), atol=TOLERANCE)


@pytest.mark.broad
def test_what_is_written_is_what_was_read(case, loaded, folder, tmp_path):
    save_pretrained(loaded, tmp_path / "written")
    written, tensors = load_file(tmp_path / "written" / "model.safetensors"), case.tensors()
    ignored = tensors.keys() - written.keys()
    assert not written.keys() - tensors.keys()
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name])
    # only buffers, and second copies of what is tied
    assert all(name.endswith(("freqs_cis", "lm_head.weight")) for name in ignored)
    kept = json.loads((tmp_path / "written" / "config.json").read_text())
    assert {name: kept[name] for name in case.config if name in kept and name != "torch_dtype"} == {
        name: value for name, value in case.config.items() if name in kept and name != "torch_dtype"
    }
    again = from_pretrained(tmp_path / "written")
    tokens = tokens_of(case)
    np.testing.assert_array_equal(logits_of(again, tokens, case.at()), logits_of(loaded, tokens, case.at()))


@pytest.mark.broad
def test_what_the_family_has_not_is_not_written(case, loaded, tmp_path):
    model = loaded.config.model
    for changed, name in (
        (dataclasses.replace(model, loop=dataclasses.replace(model.loop, boundary="rounded")), "loop.boundary"),
        (dataclasses.replace(model, step_size=0.5), "step_size"),
    ):
        config = dataclasses.replace(loaded.config, model=changed)
        with pytest.raises(UserError, match=rf"model\.{name} = .*: a {case.config['model_type']} has .*save\(FOLDER\)"):
            save_pretrained(dataclasses.replace(loaded, config=config), tmp_path / "written")
        assert not (tmp_path / "written").exists()


def test_parameters_are_counted_from_the_config_alone(case, loaded, folder):
    count = case.reference.parameters(case.config)
    assert num_parameters(model_config(folder)) == count
    assert sum(value.size for value in loaded.params.values()) == count


@pytest.mark.broad
def test_bfloat16_weights_stay_what_they_are(case, tmp_path):
    found = from_pretrained(case.write(tmp_path / "half", dtype="bfloat16"))
    assert {value.dtype for value in found.params.values()} == {jnp.dtype("bfloat16")}
    tokens = tokens_of(case)
    out = found.model(jnp.asarray(tokens), case.at())
    assert out.logits.dtype == out.state.dtype == jnp.float32
    want = case.logits(tokens)
    assert 0 < np.linalg.norm(out.logits - want) / np.linalg.norm(want) < 0.1
    save_pretrained(found, tmp_path / "written")
    assert {value.dtype for value in load_file(tmp_path / "written" / "model.safetensors").values()} == {
        jnp.dtype("bfloat16")
    }


@pytest.mark.broad
def test_gradients_reach_every_parameter(case, loaded):
    tokens = jnp.asarray(tokens_of(case))

    def loss(params):
        return jnp.sum(jnp.square(loaded.architecture.bind(params)(tokens, case.at()).logits))

    gradients = jax.grad(loss)(loaded.params)
    still = {name for name, value in gradients.items() if not jnp.any(value)}
    # the gate says when to leave, and nothing about what is predicted
    assert {name for name in still if "exit_gate" not in name} == set()


@pytest.mark.broad
def test_decoding_with_the_cache_is_the_forward_pass(case, loaded):
    """Greedy, ragged prompts: each row as if it were alone, and as one forward pass over the finished text says."""
    tokens = tokens_of(case, length=7)
    prompts = [tokens[0].tolist(), tokens[1, :4].tolist()]
    done = generate(loaded, case, prompts, 6)
    texts = np.zeros((2, 13), np.int32)
    for row, prompt, ids in zip(texts, prompts, done, strict=True):
        row[: len(prompt) + 6] = prompt + ids
    best = np.argmax(logits_of(loaded, texts, case.at()), axis=-1)
    for row, prompt, ids in zip(best, prompts, done, strict=True):
        assert row[len(prompt) - 1 :][:6].tolist() == ids
        assert generate(loaded, case, [prompt], 6) == [ids]


def generate(loaded, case, prompts, new):
    tokenizer = words(case.config["vocab_size"])
    done = jaxode.generate_batch(
        loaded.architecture,
        loaded.params,
        tokenizer,
        prompts,
        depth=case.at(),
        sampling=jaxode.inference.Greedy(),
        max_new_tokens=new,
    )
    return [list(row.ids) for row in done]


@pytest.mark.broad
def test_rows_padded_left_or_right_predict_as_alone(case, loaded):
    tokens = tokens_of(case, length=8)
    short = tokens[1, :5]
    alone = logits_of(loaded, short[None], case.at())[0]
    for side in ("right", "left"):
        pad, first = ((0, 3), 0) if side == "right" else ((3, 0), 3)
        rows, real = np.stack([tokens[0], np.pad(short, pad)]), np.stack([np.ones(8), np.pad(np.ones(5), pad)])
        out = logits_of(loaded, rows, case.at(), jnp.asarray(real, jnp.int32))
        np.testing.assert_allclose(out[1, first : first + 5], alone, atol=TOLERANCE)


def test_every_published_model_has_its_number_of_parameters():
    for reference in (ouro, nanbeige, huginn, retrofit, loopformer, dory, hrm_text):
        for name in reference.RELEASED:
            config = reference.CONFIG | reference.RELEASED[name]
            family = FAMILIES[config["model_type"]]
            found = family.model(Fields(config, name, frozenset(reference.shapes(config))))
            assert num_parameters(found) == reference.parameters(config), name


def test_other_looped_models_are_refused_by_name(tmp_path):
    for kind in (*REFUSED, "bert"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(UserError, match=f"model_type = '{kind}'.*allowed are albert, .*ouro"):
            model_config(tmp_path)


@pytest.mark.broad
def test_under_the_name_of_another_family_it_is_refused(case, tmp_path):
    own = case.config["model_type"]
    case.write(tmp_path)
    for other in {*FAMILIES, "albert"} - {own}:
        (tmp_path / "config.json").write_text(json.dumps(case.config | {"model_type": other}))
        with pytest.raises(UserError, match=re.escape(str(tmp_path))) as refused:
            from_pretrained(tmp_path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loops", [0, -1, 1.5, True])
def test_loops_below_one_are_refused(folder, loops, untyped):
    with pytest.raises(UserError, match=r"loops = .*must be a whole number from 1"):
        from_pretrained(folder, loops=loops)


def test_steps_of_size_one_are_what_its_loops_are(case, loaded):
    assert loaded.model.resolve(DepthConfig(steps=1)).schedule == loaded.config.model.loop.schedule
