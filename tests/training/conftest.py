"""A tiny corpus and the config of a run over it."""

import numpy as np
import pytest

from jaxode.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


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
