"""A run of train.py in the form of an ALBERT, written for transformers."""

import json

import jax.numpy as jnp
import pytest
from flax import nnx

from jaxode import from_pretrained, load, save_pretrained
from jaxode.checkpoint import Checkpoints, RunFolder, load_run
from jaxode.config import Config, DataConfig, ModelConfig
from jaxode.data import byte_tokenizer
from jaxode.interop import Pretrained
from jaxode.model import SequenceClassifier, make_model
from jaxode.model.parameters import split


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The run as `load_run` reads it; not to be changed."""
    model = ModelConfig(
        kind="masked",
        vocab_size=259,
        width=16,
        heads=2,
        length=24,
        steps=4,
        embedding_width=8,
        norm_position="post",
        positions="learned",
        token_types=1,
        embedding_norm=True,
        feed_forward="gelu",
        head_activation="gelu",
    )
    folder = RunFolder(tmp_path_factory.mktemp("run") / "albert")
    folder.create(Config(model=model, data=DataConfig(tokenizer="bytes")), byte_tokenizer())
    _, params = split(make_model(model))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, {name: 5 * value for name, value in params.items()}, {"count": jnp.zeros(())}, {"step": 1})
        checkpoints.wait()
    return load_run(folder.path)


@pytest.fixture
def exported(run, tmp_path):
    """The run as a Hugging Face folder whose tokenizer frames a text by two special tokens."""
    folder = save_pretrained(run, tmp_path / "exported")
    path = folder / "tokenizer.json"
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    pieces = [end, {"Sequence": {"id": "A", "type_id": 0}}, end]
    ids = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [run.tokenizer.end_id], "tokens": ["<|endoftext|>"]}}
    template = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": ids}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": template}))
    return folder


@pytest.fixture
def encoder(exported, tmp_path):
    """Its weights without a head."""
    return load(exported, task="encoder").save(tmp_path / "encoder")


@pytest.fixture
def classifier(run, exported, tmp_path):
    """A classifier of three labels with the tokenizer of `exported`."""
    config = run.config.model
    model = SequenceClassifier(config, 3, rngs=nnx.Rngs(0))
    architecture, params = split(model)
    labels = {"0": "bad", "1": "so, so", "2": "good"}
    source = {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}
    made = Pretrained(
        model=model,
        architecture=architecture,
        params={name: 5 * value for name, value in params.items()},
        config=run.config,
        tokenizer=from_pretrained(exported).tokenizer,
        task="classifier",
        source=source,
        folder=exported,
    )
    return save_pretrained(made, tmp_path / "classifier")
