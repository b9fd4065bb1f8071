"""Tiny runs on disk, one of each kind; a test that damages one takes a copy."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Ran:
    """What a call of infer.py left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def infer(capfd):
    """Run infer.py's main in this process; everything that reaches the descriptors is caught, whoever wrote it."""
    spec = importlib.util.spec_from_file_location("infer", Path(__file__).parents[2] / "infer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*argv):
        capfd.readouterr()
        try:
            code = module.main([str(argument) for argument in argv])
        except SystemExit as stop:
            code = stop.code
        return Ran(code, *capfd.readouterr())

    return call
