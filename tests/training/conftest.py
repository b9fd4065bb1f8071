"""A tiny corpus and the config of a run over it; ALBERTs, and a run that begins with one."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from small_runs import ALBERT

from jaxode import Encoder, SequenceClassifier, save_pretrained
from jaxode.config import Config, DataConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from jaxode.data import byte_tokenizer
from jaxode.interop import Pretrained
from jaxode.model import make_model
from jaxode.model.parameters import split


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = ["depth", "is", "time", "and", "a", "block", "field"]
    rng = np.random.default_rng(0)
    for i in range(12):
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(words, 400)), encoding="utf-8")
    return folder


@pytest.fixture
def config(corpus, tmp_path):
    return Config(
        model=ModelConfig(width=16, heads=2, length=16, steps=3),
        data=DataConfig(files=f"{corpus}/*.txt", tokenizer="bytes", cache=str(corpus / "cache"), valid_fraction=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            updates=8, batch_size=4, devices=1, log_every=2, validate_every=4, validation_batches=2, checkpoint_every=3
        ),
        out=str(tmp_path / "run"),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory, lively):
    """A Hugging Face ALBERT with a head over the vocabulary, one with classes, and one without a head."""
    root, made = tmp_path_factory.mktemp("alberts"), {}
    models = {
        "masked": make_model(ALBERT),
        "classifier": SequenceClassifier(ALBERT, 3, rngs=nnx.Rngs(0)),
        "encoder": Encoder(ALBERT, rngs=nnx.Rngs(0)),
    }
    for task, model in models.items():
        architecture, params = split(lively(model))
        trained = Pretrained(model, architecture, params, Config(model=ALBERT), byte_tokenizer(), task)
        made[task] = save_pretrained(trained, root / task)
    return made


@pytest.fixture
def begun(config, folders):
    """A run that begins with the ALBERT; nothing of the model is named."""
    data = dataclasses.replace(config.data, tokenizer="bpe")
    return dataclasses.replace(config, model=ModelConfig(), data=data, init=str(folders["masked"]))


@pytest.fixture
def encoding(begun, folders, tmp_path):
    """A bare ALBERT that learns to be solved in fewer steps, on lines of some words."""
    words, rng = ["depth", "is", "time", "and", "a"], np.random.default_rng(0)
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, size)) for size in rng.integers(1, 4, 300)))
    data = dataclasses.replace(
        begun.data, files=str(path), lines=True, rows="texts", frame="[MASK] <|endoftext|>", tokenizer="bpe"
    )
    return dataclasses.replace(
        begun,
        init=str(folders["encoder"]),
        data=data,
        objective=ObjectiveConfig(steps="uniform:2,4", teacher="init"),
        optimizer=OptimizerConfig(learning_rate=2e-3),
    )
