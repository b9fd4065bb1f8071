"""Tiny runs on disk, one of each kind; a test that damages one takes a copy."""

import shutil

import pytest
from tiny_runs import model_config, parameters, write_run


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
