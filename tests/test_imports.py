"""Which way imports run, and which room owns which package. One package in one room: one place to change it."""

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxode
from jaxode import data, evaluation, inference, training

ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "flax", "tensorflow", "tensorflow_datasets", "matplotlib", "transformers", "torch"}

OWNERS = {  # package -> files that may import it, as globs within jaxode/
    "diffrax": ["depth/*"],
    "optax": ["training/*", "calibration/*"],
    "orbax": ["checkpoint/steps.py"],
    "tyro": ["config/*"],
    "matplotlib": ["evaluation/figures.py"],
    "torch": ["interop/files.py"],
}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    "module",
    [
        "jaxode",
        "jaxode.config",
        "jaxode.tracking",
        "jaxode.plugins",
        "jaxode.__main__",
        "jaxode.evaluation.figures",
        "jaxode.evaluation.study.__main__",
        "jaxode.data.__main__",
        "jaxode.training.__main__",
        "jaxode.inference.__main__",
    ],
)
def test_import_is_light(module):
    done = python(f"import sys, {module}\nprint(*sorted({HEAVY!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {module} should not load these"


def test_the_harness_without_its_extra_is_one_line(tmp_path):
    (tmp_path / "lm_eval.py").write_text("raise ImportError")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "jaxode.evaluation.harness", "--tasks", "any"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    line = 'error: the evaluation harness is not installed: pip install "jaxode[eval]"'
    assert (done.returncode, done.stderr.strip()) == (1, line)


def test_generation_loads_nothing_that_only_corpora_and_runs_need():
    unneeded = {"grain", "tensorflow_datasets", "orbax.checkpoint", "transformers", "matplotlib"}
    done = python(f"import sys, jaxode.inference.tasks.main\nprint(*sorted({unneeded!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", [jaxode, data, evaluation, inference, training], ids=lambda one: one.__name__)
def test_no_module_is_called_like_a_name_that_its_package_loads_on_first_use(package):
    """Importing the module would put it in the place of the name."""
    assert {path.stem for path in Path(package.__file__).parent.iterdir()} & set(package.__all__) == set()


@pytest.mark.parametrize("module", ["jaxode.training", "jaxode.inference", "jaxode.data"])
def test_the_package_alone_has_the_commands(module, tmp_path):
    """Elsewhere than in a checkout, and with errors as the scripts give them."""

    def call(*flags):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", module, *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    assert call("--help").stdout.startswith(f"usage: python -m {module} ")
    done = call("--config", "absent.toml")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: absent.toml: no such config file\n")


def test_import_linter_contracts_hold():
    script = Path(sys.executable).with_name("lint-imports")
    if not script.exists():
        pytest.fail('lint-imports is missing: pip install "jaxode[test]"')
    done = subprocess.run([script, "--no-cache", "--no-logo"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(source):
    """Names of all modules that `source` imports, at module level or nested; relative imports are within jaxode."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(module)), *_]
            ):
                if name in ("import_module", "__import__"):
                    yield module


def trespassers(package, allowed, folder):
    for path in sorted(folder.rglob("*.py")):
        owned = any(path.match(str(folder / glob)) for glob in allowed)
        modules = {module.partition(".")[0] for module in imported(path.read_text(encoding="utf-8"))}
        if package in modules and not owned:
            yield str(path.relative_to(folder))


@pytest.mark.parametrize("package", OWNERS)
def test_package_is_imported_in_its_own_room_only(package):
    assert list(trespassers(package, OWNERS[package], ROOT / "jaxode")) == [], f"{package} belongs in {OWNERS[package]}"


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch.nn import functional",
        "def f():\n    import os, torch",
        "if True:\n    from torch import nn",
        "importlib.import_module('torch.nn')",
        "__import__('torch')",
    ],
)
def test_the_walk_finds_every_way_to_import(tmp_path, line):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "a.py").write_text(line)
    (tmp_path / "b.py").write_text("from .torch import x\nimport torchless\n'import torch'")
    assert list(trespassers("torch", [], tmp_path)) == ["depth/a.py"]
    assert list(trespassers("torch", ["depth/*"], tmp_path)) == []


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_what_there_is(script):
    """Each runs for minutes and seldom; a name that has moved shows here."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    for node in imports:
        if node.module.split(".")[0] != "jaxode" or node.module == "jaxode.evaluation.harness":  # which needs an extra
            continue
        module = importlib.import_module(node.module)
        for name in (alias.name for alias in node.names):
            assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), f"{node.module}.{name}"
