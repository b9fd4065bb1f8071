"""What the tests of inference build on: tiny models, and run folders written as training writes them."""

import jax.numpy as jnp

from jaxode.checkpoint import Checkpoints, RunFolder
from jaxode.config import Config, DataConfig, ModelConfig, TrainConfig
from jaxode.data import byte_tokenizer
from jaxode.model import make_model
from jaxode.model.parameters import split

TOKENIZER = byte_tokenizer()
LENGTH = 16


def model_config(kind, **changes):
    sizes = {"vocab_size": TOKENIZER.vocab_size, "width": 16, "heads": 2, "length": LENGTH, "steps": 4}
    return ModelConfig(kind=kind, **(sizes | changes))


def parameters(config):
    """Five times the initial ones: a fresh model's logits are nearly flat."""
    architecture, params = split(make_model(config))
    return architecture, {name: 5 * value for name, value in params.items()}


def write_run(path, config, *, steps=(3, 7), tokenizer=TOKENIZER, **data):
    run = RunFolder(path)
    train = TrainConfig(batch_size=2)
    run.create(Config(model=config, data=DataConfig(tokenizer="bytes", **data), train=train), tokenizer)
    _, params = parameters(config)
    with Checkpoints(run) as checkpoints:
        for step in steps:
            checkpoints.save(step, params, {"count": jnp.zeros(())}, {"step": step})
        checkpoints.wait()
    return path
