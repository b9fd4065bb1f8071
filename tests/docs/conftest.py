"""A checkout of its own for what pages run; looped models are made where the tests of interop make theirs."""

import shutil
import sys
from pathlib import Path

import pytest
from commands import ROOT

from jaxode import plugins

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """What is prepared and fitted, once for all pages."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def checkout(tmp_path, monkeypatch, cache, untyped, rescaled_alone):
    """The working directory: a checkout whose benchmarks and results may be written to."""
    for name in ("jaxode", "configs", "examples", "train.py", "infer.py", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXODE_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("JAXODE_DATA", raising=False)
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(plugins, "_DECLARED", {})
    monkeypatch.setenv("MPLBACKEND", "agg")
    # a part of this package in the place of Python's whole library
    monkeypatch.setattr("jaxode.data.corpora.stdlib_folder", lambda: ROOT / "jaxode" / "depth")
    return tmp_path
