"""Plug-ins: files are loaded by name alone, whole or not at all, and every refusal is one line with its file."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from jaxode import plugins
from jaxode.config import Config, InferConfig, ObjectiveConfig, UserError, from_toml, parse

ROOT = Path(__file__).parents[1]
TYPICAL = (ROOT / "examples/plugins/typical_sampling.py").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(plugins, "_DECLARED", {})
    yield
    for table in plugins._TABLES.values():
        table._added.clear()


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.py"):
        Path(name).write_text(f"from jaxode.plugins import register\n{text}\n", encoding="utf-8")
        return name

    return write


def refused(source):
    with pytest.raises(UserError) as caught:
        plugins.load(source)
    assert "\n" not in str(caught.value)
    assert plugins.loaded() == ()
    return str(caught.value)


def test_a_file_that_is_loaded_brings_its_names_and_loading_it_again_nothing(write):
    from jaxode.inference.generation.sampling import METHODS, named_sampling

    with pytest.raises(
        UserError, match=r'^sampling = "typical:0.9": allowed are greedy, .*, and what a plug-in brings'
    ):
        named_sampling("typical:0.9")
    Path("mine.py").write_text(TYPICAL, encoding="utf-8")
    (first,) = plugins.load("mine.py")
    assert plugins.load(Path("mine.py"), "./mine.py") == (first, first)
    assert (first.source, first.parts) == ("mine.py", (("sampling", "typical"),))
    assert first.sha256 == plugins.fingerprint("mine.py")
    assert named_sampling("typical:0.9").p == 0.9
    assert list(METHODS)[-1] == "typical"


def test_a_file_that_has_changed_since_is_refused(write):
    plugins.load(write('register("objective", "nothing")(lambda out, batch: 0)'))
    write('register("objective", "nothing")(lambda out, batch: 1)')
    with pytest.raises(UserError, match=r"^mine.py: has changed since it was loaded, .* begin a new process"):
        plugins.load("mine.py")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1\nimport absent_package", r"mine.py, line 3: cannot be imported: ModuleNotFoundError: No module named "),
        ("def f(:", r"mine.py, line 2: cannot be imported: SyntaxError: "),
        ("raise SystemExit(3)", r"mine.py, line 2: cannot be imported: SystemExit: 3"),
        ("", r'mine.py: registers nothing; put @register\("KIND", "NAME"\) of jaxode.plugins before a part \(block, '),
        ('register("colour", "a")(1)', r'mine.py, line 2: register\("colour", "a"\): kinds are block, boundary, '),
        ('register("solver", "A b")(1)', r'mine.py, line 2: register\("solver", "A b"\): a name is lower-case letters'),
        ('register("solver", "euler")(1)', r'line 2: register\("solver", "euler"\): "euler" is built in; choose'),
        ('register("solver", "auto")(1)', r'"auto" is built in'),
        ('register("objective", "distil")(1)', r'"distil" is built in'),
        ('register("corpus", "lm1b")(lambda data: [])', r'"lm1b" is a TFDS text set; choose another name'),
        (
            'register("objective", "a")(lambda out, batch: 0)\nregister("objective", "a")(lambda out, batch: 0)',
            r'mine.py, line 3: register\("objective", "a"\): stands there twice',
        ),
    ],
    ids=lambda text: text[:40],
)
def test_refused_in_one_line_with_its_file(write, text, why):
    assert re.search(why, refused(write(text)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('register("block", "a")(int)', "must be a class that inherits from jaxode.Block"),
        (
            'from jaxode import Block\n@register("block", "a")\nclass A(Block):\n    def __init__(self, config): ...',
            "line 3: .*A: is made as A.config, rngs=.., dtype=.., conditioned=.., index=...*does not take",
        ),
        ('register("boundary", "norm")(lambda x: x)', '"norm" is built in; choose another name'),
        ('register("boundary", "a")(int)', "must be a function of the state, or a class that inherits from flax.nnx"),
        ('register("boundary", "a")(lambda: 0)', "is called with .x., which it does not take"),
        (
            "from flax import nnx\n@register('boundary', 'a')\nclass A(nnx.Module):\n    x = 1",
            "A: lacks __call__.self, x.",
        ),
        (
            "from flax import nnx\n@register('boundary', 'a')\nclass A(nnx.Module):\n"
            "    def __init__(self, config): ...\n    def __call__(self, x): return x",
            "A: is called with .config, rngs=.., dtype=..., which it does not take",
        ),
        ('register("solver", "a")(3)', "3: must be an explicit Runge-Kutta solver of Diffrax, or a function from"),
        ('import diffrax\nregister("solver", "a")(diffrax.ImplicitEuler)', "must be an explicit Runge-Kutta method"),
        ('register("solver", "a")(lambda sizes: [[1.0]])', r"give coefficients of shape \[1, 1\]: must be finite"),
        ('register("solver", "a")(lambda sizes: 1 / 0)', "give ZeroDivisionError: division by zero; must give"),
        ('register("solver", "a")(lambda sizes: [[1, 1]] * 3)', "give weights to evaluations before the first"),
        ('register("exit_rule", "a")(int)', "must be a class under @flax.struct.dataclass"),
        (
            "from flax import struct\n@register('exit_rule', 'a')\n@struct.dataclass\nclass A:\n    threshold: float",
            "A lacks granularity, kind, start, observes, __call__; jaxode.StateChange shows",
        ),
        ('register("objective", "a")(lambda out: 0)', "is called with .out, batch., which it does not take"),
        ('register("sampling", "a")(int)', r"must be a class under @dataclass\(frozen=True\)"),
        (
            "from dataclasses import *\n@register('sampling', 'a')\n@dataclass(frozen=True)\nclass A:\n    p: int",
            "A lacks remembers, __call__; jaxode.inference.MinP shows",
        ),
        ('register("corpus", "a")(lambda: [])', "is called with .data., which it does not take"),
    ],
    ids=lambda text: text[:60],
)
def test_a_part_that_lacks_what_its_kind_needs_is_refused(write, text, why):
    message = refused(write(text))
    assert message.startswith("mine.py, line ")
    assert re.search(why, message), message


def test_an_exit_rule_whose_kind_stays_empty_is_refused(write):
    """JAX compares rules by their fields alone: two without a kind could run each other's program."""
    example = (ROOT / "examples/plugins/entropy_exit.py").read_text(encoding="utf-8")
    assert "Entropy: its kind is empty" in refused(write(example.replace("check_rule(self)", "pass")))


def test_two_files_may_call_their_rules_alike(write):
    example = (ROOT / "examples/plugins/entropy_exit.py").read_text(encoding="utf-8")
    plugins.load(write(example, "one.py"), write(example.replace('"entropy"', '"other"') + "# two", "two.py"))
    from jaxode.inference.adaptive.exits import make_rule

    kinds = {make_rule(f"{name}:1.0").kind for name in ("entropy", "other")}
    assert len(kinds) == 2


def test_names_of_another_plug_in_are_refused_and_nothing_of_the_file_stays(write):
    plugins.load(write('register("objective", "a")(lambda out, batch: 0)', "first.py"))
    two = 'register("objective", "b")(lambda out, batch: 0)\nregister("objective", "a")(lambda out, batch: 0)'
    with pytest.raises(
        UserError, match=r'^mine.py, line 3: register\(.*\): "a" is what first.py brings; choose another'
    ):
        plugins.load(write(two))
    from jaxode.training.terms import TERMS

    assert list(TERMS) == ["a"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("absent.py", "^plugins = absent.py: no such file$"),
        (
            "absent",
            r"^plugins = absent: is no file that ends in .py, and no entry point of the group jaxode.plugins \(no ",
        ),
        ("gone", "^plugins = gone: its module absent_package.parts cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_not_there_is_refused(write, monkeypatch, source, why):
    installed = [EntryPoint("gone", "absent_package.parts", plugins.GROUP)] if source == "gone" else []
    monkeypatch.setattr(plugins, "entry_points", lambda group: installed)
    with pytest.raises(UserError, match=why):
        plugins.load(source)


def test_an_installed_package_is_loaded_when_it_is_named_and_not_before(write, monkeypatch):
    """Also where something else has imported it already."""
    Path("mypackage").mkdir()
    write("from mypackage import terms", "mypackage/__init__.py")
    write('register("objective", "a")(lambda out, batch: 0)', "mypackage/terms.py")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("mine", "mypackage", plugins.GROUP)])
    import mypackage  # noqa: F401  # pyright: ignore[reportMissingImports]

    from jaxode.training.terms import TERMS

    assert "a" not in TERMS
    (plugin,) = plugins.load("mine")
    assert (plugin.parts, "a" in TERMS) == ((("objective", "a"),), True)
    write("# changed", "mypackage/other.py")
    assert plugins.fingerprint("mine") != plugin.sha256


def test_flags_and_toml_name_plug_ins_and_the_config_of_a_resumed_run_does_not(tmp_path):
    """Code runs only from what is named in this call."""
    file = tmp_path / "config.toml"
    file.write_text('plugins = ["a.py", "b.py"]\nout = "here"\n', encoding="utf-8")
    assert from_toml(Config, file).plugins == ("a.py", "b.py")
    assert parse(Config, ["--config", str(file)]).plugins == ("a.py", "b.py")
    assert parse(Config, ["--plugins", "c.py"], base=file).plugins == ("c.py",)
    resumed = parse(Config, [], base=file)
    assert (resumed.plugins, resumed.out) == ((), "here")
    assert parse(InferConfig, ["--plugins", "c.py", "d.py"]).plugins == ("c.py", "d.py")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ObjectiveConfig(terms="z_loss"), 'objective.terms = "z_loss": z_loss has no weight; give it one'),
        (lambda: ObjectiveConfig(terms="z_loss:0"), "the weight of z_loss must be positive"),
        (lambda: ObjectiveConfig(terms="z_loss:nan"), "the weight of z_loss must be positive"),
        (lambda: ObjectiveConfig(terms="a:1,a:2"), 'objective.terms = "a:1,a:2": names one of them twice'),
        (lambda: ObjectiveConfig(terms="a:b"), 'must be names, with a number where they take one, such as "z_loss:'),
        (lambda: InferConfig(sampling="a:"), 'sampling = "a:": must be names, with a number'),
        (
            lambda: InferConfig(sampling="top_k:4", temperature=0.0),
            "with temperature = 0: the most likely token is taken",
        ),
        (
            lambda: InferConfig(exit_rule="a:1", task="fill"),
            'exit_rule = "a:1" with task = fill: only score reads it; give --task score',
        ),
        (
            lambda: InferConfig(exit_rule="a:1", task="score", file="f", lines=True),
            "with lines: a file is scored as a ",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_the_form_of_a_setting_is_checked_before_any_name_is_known(make, why):
    with pytest.raises(UserError) as caught:
        make()
    assert why in str(caught.value)


def test_nothing_of_it_imports_jax_but_the_file_itself(tmp_path):
    """So that --help and a wrong flag stay instant where plug-ins are named."""
    code = f"""
import sys
from jaxode import plugins
from jaxode.config import Config, parse
parse(Config, ["--plugins", "a.py", "--model.block", "mine", "--objective.terms", "z:0.1"])
(plugin,) = plugins.load({str(ROOT / "examples/plugins/brackets.py")!r})
assert plugin.parts == (("corpus", "brackets"),)
print("jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
