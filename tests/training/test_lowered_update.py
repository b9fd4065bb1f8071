"""What XLA is handed for an update: nothing waits for the host, nothing is copied that could be changed in place."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.config import DepthConfig, ModelConfig, OptimizerConfig
from jaxode.data import Batch
from jaxode.model import make_model
from jaxode.model.parameters import split
from jaxode.training import init_state, make_optimizer, make_train_step

MODEL = ModelConfig(vocab_size=50, width=32, heads=4, ff_width=48, length=72, steps=3)
ADJOINTS = ["recursive", "remat", "unroll"]


def update(adjoint="recursive", *, dtype=jnp.bfloat16, optimizer="adamw", model=MODEL, **kwargs):
    """A jitted update and its arguments: a batch of 3 rows."""
    architecture, params = split(make_model(model, dtype=dtype))
    rule = make_optimizer(OptimizerConfig(name=optimizer), 20)
    step = make_train_step(architecture, DepthConfig(adjoint=adjoint), rule, **kwargs)
    ids = np.zeros((3, model.length), np.int32)
    batch = Batch(ids, ids, np.ones(ids.shape, np.float32), ids + 1)
    return jax.jit(step, donate_argnums=0), (init_state(params, rule), batch, jax.random.key(0))


def products(text):
    """Types of the factors of every matmul."""
    return re.findall(r"stablehlo\.dot_general.*: \(tensor<([^>]*)>, tensor<([^>]*)>\)", text)


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_an_update_never_calls_back_to_python(adjoint):
    step, args = update(adjoint)
    assert "callback" not in step.lower(*args).as_text()


@pytest.mark.broad
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_changes_every_parameter_and_moment_in_place(optimizer):
    step, args = update(optimizer=optimizer)
    donated = len(jax.tree.leaves(args[0]))
    head = step.lower(*args).compile().as_text().partition("entry_computation_layout")[0]
    assert len(re.findall(r"(?:may|must)-alias", head)) == donated


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_each_weight_is_cast_once_an_update_however_many_steps(adjoint, narrowed):
    for steps in (3, 6):
        casts = narrowed(*flat(update(adjoint, model=dataclasses.replace(MODEL, steps=steps))))
        for shape in ((32, 96), (32, 32), (32, 48), (48, 32), (50, 32)):
            assert (casts[shape, False], casts[shape, True]) == (1, 0), shape


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("tied", [True, False])
def test_only_attentions_scores_meet_float32_factors(tied, adjoint):
    step, args = update(adjoint, model=dataclasses.replace(MODEL, tied=tied))
    wide = {pair for pair in products(step.lower(*args).as_text()) if any(part.endswith("f32") for part in pair)}
    assert all("72x72" in left + right for left, right in wide), wide
    step, args = update(adjoint, model=dataclasses.replace(MODEL, tied=tied), dtype=jnp.float32)
    assert not [pair for pair in products(step.lower(*args).as_text()) if any("bf16" in part for part in pair)]


@pytest.mark.broad
@pytest.mark.parametrize(("adjoint", "forward"), [("recursive", 2), ("remat", 1), ("unroll", 3)])
def test_on_a_gpu_remat_runs_attention_forward_once(adjoint, forward, nvidia):
    step, args = update(adjoint)
    text = nvidia(step, *args)
    assert text.count("@__cudnn$fmhaSoftmax(") == forward
    assert text.count("@__cudnn$fmhaSoftmaxBackward(") == (3 if adjoint == "unroll" else 1)
    assert "72x72" not in text
    assert not [pair for pair in products(text) if any("f32" in part for part in pair)]


@pytest.mark.broad
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_on_a_gpu_documents_are_a_mask_and_no_scores(adjoint, nvidia):
    step, args = update(adjoint, document_mask=True)
    text = nvidia(step, *args)
    assert "@__cudnn$fmhaScaleBiasSoftmaxBackward(" in text
    assert "72x72xf32" not in text


@pytest.mark.broad
@pytest.mark.parametrize("length", [73, 16])
def test_on_a_gpu_an_update_that_cudnn_does_not_take_is_lowered_all_the_same(length, nvidia):
    step, args = update("remat", model=dataclasses.replace(MODEL, length=length), document_mask=True)
    assert "cudnn" not in nvidia(step, *args)


def flat(pair):
    return pair[0], *pair[1]
