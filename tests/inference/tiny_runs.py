"""What the tests of inference build on: tiny models, and run folders written as training writes them."""

import re

import jax.numpy as jnp
import numpy as np

from jaxode.checkpoint import Checkpoints, RunFolder
from jaxode.config import Config, DataConfig, DepthConfig, ModelConfig, TrainConfig
from jaxode.data import byte_tokenizer
from jaxode.depth import Coefficients
from jaxode.model import make_model
from jaxode.model.parameters import calibration_parameters, split

TOKENIZER = byte_tokenizer()
LENGTH = 16


def model_config(kind, **changes):
    sizes = {"vocab_size": TOKENIZER.vocab_size, "width": 16, "heads": 2, "length": LENGTH, "steps": 4}
    return ModelConfig(kind=kind, **(sizes | changes))


def parameters(config):
    """Five times the initial ones: a fresh model's logits are nearly flat."""
    architecture, params = split(make_model(config))
    return architecture, {name: 5 * value for name, value in params.items()}


def calibrated(params):
    """With a made-up calibration for 2 steps."""
    rng = np.random.default_rng(0)
    shapes = ((2, 2), (2, 2, 16, 3), (2, 3, 16))
    made = Coefficients(*((0.3 * rng.normal(size=shape)).astype(np.float32) for shape in shapes))
    return params | calibration_parameters(2, made)


def write_run(path, config, *, steps=(3, 7), tokenizer=TOKENIZER, depth=None, **data):
    run = RunFolder(path)
    about = {"train": TrainConfig(batch_size=2), "depth": depth or DepthConfig()}
    run.create(Config(model=config, data=DataConfig(tokenizer="bytes", **data), **about), tokenizer)
    _, params = parameters(config)
    with Checkpoints(run) as checkpoints:
        for step in steps:
            checkpoints.save(step, params, {"count": jnp.zeros(())}, {"step": step})
        checkpoints.wait()
    return path


def fails(ran):
    """Exit code 2, nothing on standard output; returns the one line after the notes that the run began with."""
    assert (ran.code, ran.out) == (2, "")
    *notes, last = ran.err.splitlines()
    assert all(re.match(r"run |the prompt has|\d+ steps of ", note) for note in notes), ran.err
    assert last.startswith("error: ")
    return last
