"""Tiny runs on disk, one of each kind; a test that damages one takes a copy."""

import shutil

import pytest
from adaptive_models import LAYOUTS, SIZES
from flax import nnx
from tiny_runs import model_config, parameters, write_run

from jaxode.config import ModelConfig
from jaxode.model import SequenceClassifier, make_model


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of a causal and a masked run; not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    return {kind: write_run(root / kind, model_config(kind)) for kind in ("causal", "masked")}


@pytest.fixture
def copy(runs, tmp_path):
    """A causal run to damage."""
    return shutil.copytree(runs["causal"], tmp_path / "run")


@pytest.fixture(scope="session")
def causal():
    return parameters(model_config("causal"))


@pytest.fixture(scope="session")
def masked():
    return parameters(model_config("masked"))


@pytest.fixture(scope="module")
def models(lively):
    """Of every layout, and a classifier."""
    made = {name: lively(make_model(ModelConfig(**SIZES | changes))) for name, changes in LAYOUTS.items()}
    classes = {"kind": "masked", "sharing": "sequence", "groups": 2}
    made["classifier"] = lively(SequenceClassifier(ModelConfig(**SIZES | classes), 5, rngs=nnx.Rngs(0)))
    return made
