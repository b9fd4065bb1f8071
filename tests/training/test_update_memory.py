"""A run that cannot fit is refused before anything is compiled or written."""

import dataclasses

import pytest

from jaxode.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, UserError
from jaxode.config.size import num_parameters
from jaxode.model import room
from jaxode.training import memory, train
from jaxode.training.memory import check_memory, update_bytes


def config(out="", **changes):
    train = {"updates": 2, "batch_size": 64, "final_batches": 1, "validate_every": 0, "sweep": False} | changes
    return Config(
        model=ModelConfig(vocab_size=300, width=16, heads=2, length=16, steps=4),
        data=DataConfig(files=__file__, tokenizer="bytes"),
        optimizer=OptimizerConfig(name="adamw"),
        train=TrainConfig(**train),
        out=str(out),
    )


def test_an_update_by_hand():
    # parameters, gradient, momentum; 4 arrays of tokens; logits, 4 states of width 16, scores of 2 heads
    parameters, tokens = 3 * num_parameters(config().model), 64 * 16
    assert update_bytes(config(), 1) == 4 * (parameters + 4 * tokens + tokens * (300 + 4 * 16 + 2 * 16))
    assert update_bytes(config(accumulate=4), 2) == 4 * (
        parameters + 2 * tokens + tokens // 8 * (300 + 4 * 16 + 2 * 16)
    )


def test_the_estimate_is_below_what_xla_sets_aside():
    import jax
    import jax.numpy as jnp

    from jaxode.config import DepthConfig
    from jaxode.data.batches import Batch
    from jaxode.model import make_model
    from jaxode.model.parameters import split
    from jaxode.training.optimizer import make_optimizer
    from jaxode.training.step import init_state, make_train_step

    run = config()
    architecture, params = split(make_model(run.model))
    optimizer = make_optimizer(run.optimizer, 2)
    step = make_train_step(architecture, DepthConfig(), optimizer)
    ids = jnp.zeros((64, 16), jnp.int32)
    batch = Batch(ids, ids, jnp.ones((64, 16)), ids + 1)
    compiled = jax.jit(step).lower(init_state(params, optimizer), batch, jax.random.key(0)).compile()
    taken = compiled.memory_analysis()
    assert update_bytes(run, 1) <= taken.argument_size_in_bytes + taken.temp_size_in_bytes


def test_a_run_that_does_not_fit_is_refused(tmp_path, monkeypatch, compilations):
    run = config(tmp_path / "run")
    needed = update_bytes(run, 8)
    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    check_memory(run, 8)
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    before = compilations()
    with pytest.raises(
        UserError, match=r"an update takes at least .* GB, .* GB are available: make train.batch_size = 64"
    ):
        train(run)
    assert compilations() == before
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    check_memory(run, 8)


def test_parameters_that_do_not_fit_are_told_first(monkeypatch):
    run = config()
    monkeypatch.setattr(room, "available_memory", lambda: 1)
    with pytest.raises(UserError, match=r"a model of .* parameters takes"):
        check_memory(run, 8)


@pytest.mark.parametrize(
    ("length", "precision", "kept"), [(64, "bfloat16", 0), (64, "float32", 2), (63, "bfloat16", 2)]
)
def test_scores_are_counted_where_no_kernel_spares_them(length, precision, kept, monkeypatch):
    run = config(precision=precision)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, length=length))
    monkeypatch.setattr(memory, "capability", lambda: 0.0)
    written_out = update_bytes(run, 1)
    monkeypatch.setattr(memory, "capability", lambda: 9.0)
    assert written_out - update_bytes(run, 1) == 4 * 64 * length * length * (2 - kept)
