"""Eight emulated CPU devices for every test, and tiny models.

The variables are set before anything imports jax. XLA optimises little here: these programs compile longer than
they run.
"""

import gc
import importlib.util
import os
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAXODE_COMPILED"] = "none"  # a kept program would hide what compiles
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        # Less than half of the compilation time where the flags exist; XLA aborts on one that it does not know.
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if version("jaxlib").startswith("0.10.")
        else "",
    ]
).strip()

import hypothesis
import pytest

from jaxode.config import ModelConfig

# As hypothesis itself does where CI is set: no outcome that depends on how fast a machine is, on chance, or on files of
# an earlier run.
hypothesis.settings.register_profile(
    "jaxode",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("jaxode")

# Tracing makes many small objects that live on: collecting them takes an eighth of the time of these tests.
gc.set_threshold(200_000, 20, 20)


def pytest_addoption(parser):
    """--whole, for every case of every test; --inputs, for damaged files of a number."""
    parser.addoption(
        "--whole", action="store_true", help="also tests marked `deep`, and every case of those marked `broad`"
    )
    parser.addoption(
        "--inputs", type=int, default=0, help="how many damaged inputs tests/faults/test_damaged_inputs.py tries"
    )


def pytest_collection_modifyitems(config, items):
    """Without --whole no test marked `deep`, whose parts other tests hold one by one, and of a test marked `broad`,
    which makes one claim about many combinations, an eighth of the cases (of eight or fewer one), from one test to the
    next other ones: each costs seconds of tracing and compilation.
    """
    if config.getoption("--whole"):
        return
    cases = {}
    for item in items:
        if "broad" in item.keywords and "deep" not in item.keywords:
            cases.setdefault((item.path, item.originalname), []).append(item)
    passed_over = {item for item in items if "deep" in item.keywords}
    for (_, name), mine in cases.items():
        first = zlib.crc32(name.encode()) % min(8, len(mine))
        passed_over |= {item for index, item in enumerate(mine) if index % 8 != first}
    items[:] = [item for item in items if item not in passed_over]
    config.hook.pytest_deselected(items=list(passed_over))


def pytest_configure(config):
    """One folder for what all processes of a run compile: tiny models are compiled again and again."""
    if hasattr(config, "workerinput"):
        return  # told by the process that started this one
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxode-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config):
    """It is gone with the run."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


MAPPED = 20_000
"""Mappings of a process after which compiled programs are dropped."""


@pytest.fixture(scope="module", autouse=True)
def _not_too_many_programs():
    """Drop what is compiled, from time to time: each program maps memory, and a process may map 65,530 times in all."""
    yield
    if "jax" in sys.modules and _mappings() > MAPPED:
        import jax

        jax.clear_caches()
        gc.collect()
        gc.freeze()  # what is left are modules and collected tests: the next collection need not go through them again


def _mappings():
    try:
        with open("/proc/self/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return MAPPED + 1  # not told: after every module


@pytest.fixture(scope="session")
def tiny():
    """A factory of small configurations: D 32, H 4, L 16, N 4, V 50, with sublayers of full size from the start."""

    def make(**changes):
        values = {"vocab_size": 50, "width": 32, "heads": 4, "length": 16, "steps": 4, "output_init": 1.0}
        return ModelConfig(**(values | changes))

    return make


@pytest.fixture(scope="session")
def lively():
    """Add noise to every parameter of a module in place, so that zero biases and gates and unit scales show as well."""
    import jax
    from flax import nnx

    def shake(module, seed=1, size=0.1):
        params = nnx.state(module, nnx.Param)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        noisy = [leaf + size * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
        nnx.update(module, jax.tree.unflatten(tree, noisy))
        return module

    return shake


@pytest.fixture(scope="session")
def _compiled():
    """A list that grows with every program that XLA compiles."""
    import jax.monitoring

    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return compiled


@pytest.fixture
def compilations(_compiled):
    """A function that says how many programs XLA has compiled so far, none of which an earlier test has left."""
    import jax

    jax.clear_caches()
    return lambda: len(_compiled)


@pytest.fixture
def nvidia(monkeypatch):
    """A function that lowers a jitted one for an NVIDIA GPU, which need not be there, and gives its StableHLO.

    JAX asks the machine for its cuDNN; what it answers is not in the text.
    """
    import jax
    from jax._src.cudnn import fused_attention_stablehlo

    from jaxode.model import attention

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(attention, "capability", lambda: 9.0)
    jax.clear_caches()  # what was traced for the machine that is here
    yield lambda f, *args: f.trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    jax.clear_caches()


@pytest.fixture(scope="session")
def narrowed():
    """A function that counts what a function casts from float32 to bfloat16: (shape, inside of a loop)."""
    import jax
    import jax.numpy as jnp

    def walk(jaxpr, inside):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "convert_element_type" and eqn.params["new_dtype"] == jnp.bfloat16:
                yield eqn.invars[0].aval.shape, inside
            loop = inside or eqn.primitive.name in ("while", "scan")
            for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from walk(inner, loop)

    return lambda f, *args: Counter(walk(jax.make_jaxpr(f)(*args).jaxpr, False))


@pytest.fixture
def rescaled_alone(monkeypatch):
    """A report compares with step rescaling and nothing else: each comparator compiles a program for every depth."""
    from jaxode.evaluation import comparators
    from jaxode.inference.tasks import report

    def fewer(model, counts):
        return tuple(method for method in comparators(model, counts) if method.name == "step rescaling")

    monkeypatch.setattr(report, "comparators", fewer)


@pytest.fixture
def untyped(monkeypatch):
    """Types are not checked at calls, as outside of tests: what is refused then is refused by the function itself."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Ran(NamedTuple):
    """What a call of infer.py left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def infer(capfd):
    """Run infer.py's main in this process; everything that reaches the descriptors is caught, whoever wrote it."""
    spec = importlib.util.spec_from_file_location("infer", Path(__file__).parents[1] / "infer.py")
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
