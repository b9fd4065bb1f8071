"""What a field may hold: the same rule in Python as in TOML and as a flag, for every field of every configuration."""

import dataclasses
import inspect
import math
import typing
from pathlib import Path

import numpy as np
import pytest

from jaxode.config import (
    Config,
    DataConfig,
    DepthConfig,
    InferConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    StudyCommand,
    StudyConfig,
    StudySettings,
    TrainConfig,
    UserError,
    VariantConfig,
    check_seed,
    from_dict,
    parse,
)
from jaxode.config.fields import fit, hints

NEEDED = {
    StudyCommand: {"study": "study.toml"},
    StudySettings: {"recipe": "recipe.toml", "baseline": "plain"},
    VariantConfig: {"name": "plain"},
    StudyConfig: {
        "study": StudySettings(recipe="recipe.toml", baseline="plain"),
        "variant": (VariantConfig(name="plain"),),
    },
}
KINDS = (Config, DataConfig, DepthConfig, InferConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, TrainConfig)


@pytest.fixture(autouse=True)
def _arguments_reach_the_class(monkeypatch):
    """The suite's own checker of arguments steps aside: what refuses here has to do so without it."""
    for kind in (*KINDS, *NEEDED):
        monkeypatch.setattr(kind, "__init__", inspect.unwrap(kind.__init__))


def make(kind, /, **values):
    return kind(**(NEEDED.get(kind, {}) | values))


def fields_of(*wanted):
    """Kind and name of every field that holds one of these types, or nothing."""
    return [
        pytest.param(kind, name, id=f"{kind.__name__}.{name}")
        for kind in (*KINDS, *NEEDED)
        for name, hint in typing.get_type_hints(kind).items()
        if {typing.get_origin(hint) or hint, *(typing.get_args(hint) if type(None) in typing.get_args(hint) else ())}
        & set(wanted)
    ]


def literals():
    """Kind, name and options of every field that is a choice."""
    return [
        pytest.param(kind, name, typing.get_args(hint), id=f"{kind.__name__}.{name}")
        for kind in KINDS
        for name, hint in typing.get_type_hints(kind).items()
        if typing.get_origin(hint) is typing.Literal
    ]


def refusal(kind, /, **values):
    with pytest.raises(UserError) as refused:
        make(kind, **values)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm_position": "between"}, "model.norm_position = 'between': must be one of 'pre', 'post'"),
        ({"positions": "alibi"}, "model.positions = 'alibi': must be one of 'rotary', 'learned'"),
        ({"norm": "batch"}, "model.norm = 'batch': must be one of 'layer', 'rms'"),
        ({"sharing": "looped"}, "model.sharing = 'looped': must be one of 'full', 'sequence', 'cycle', 'none'"),
        ({"conditioning": "timestep"}, "model.conditioning = 'timestep': must be one of 'none', 'time', 'step', 'lo"),
        ({"feed_forward": "geglu"}, "model.feed_forward = 'geglu': must be one of 'gelu', 'gelu_tanh', 'relu', 'sil"),
        ({"kind": ["causal"]}, "model.kind = ['causal']: must be one of 'causal', 'masked'"),
        ({"width": "64"}, "model.width = '64': must be int"),
        ({"width": None}, "model.width = None: must be int"),
        ({"width": np.zeros((2, 2))}, "model.width = array([[0., 0.], [0., 0.]]): must be int"),
        ({"width": np.float64(64.0)}, "model.width = 64.0: must be int"),
        ({"steps": 2.5}, "model.steps = 2.5: must be int"),
        ({"steps": True}, "model.steps = True: must be int"),
        ({"tied": 1}, "model.tied = 1: must be bool"),
        ({"dropout": True}, "model.dropout = True: must be float"),
        ({"dropout": "0.1"}, "model.dropout = '0.1': must be float"),
    ],
)
def test_a_wrong_type_is_refused_in_python_as_in_toml(values, message):
    said = refusal(ModelConfig, **values)
    assert said.startswith(message)
    with pytest.raises(UserError) as refused:
        from_dict(Config, {"model": values}, "run.toml")
    assert str(refused.value) == f"run.toml: {said}"
    with pytest.raises(UserError) as refused:
        dataclasses.replace(ModelConfig(), **values)
    assert str(refused.value) == said


@pytest.mark.parametrize(("kind", "name", "options"), literals())
def test_every_choice_is_checked(kind, name, options):
    assert f"{name} = 'none such': must be one of {', '.join(map(repr, options))}" in refusal(
        kind, **{name: "none such"}
    )


@pytest.mark.parametrize(("kind", "name"), fields_of(int, float, bool, str, dict))
def test_every_field_is_checked(kind, name):
    for value in ([["x"]], b"x", 1j):
        assert f"{name} = {value}: must be " in refusal(kind, **{name: value})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Config, {"model": {"width": 64}}, "model = {'width': 64}: must be ModelConfig"),
        (Config, {"model": DepthConfig()}, "model = DepthConfig("),
        (StudySettings, {"seeds": "01"}, "study.seeds = '01': must be a list"),
        (StudySettings, {"seeds": [0, 1.5]}, "study.seeds[1] = 1.5: must be int"),
        (VariantConfig, {"settings": ["a"]}, "variant.settings = ['a']: must be a table"),
        (StudyConfig, {"variant": [3]}, "variant[0] = 3: must be VariantConfig"),
        (StudyConfig, {"axes": {"depth": 3}}, "axes.depth = 3: must be a table"),
    ],
)
def test_tables_and_lists_are_checked(kind, values, message):
    assert refusal(kind, **values).startswith(message)


def test_numbers_of_numpy_and_integers_for_floats_become_python_s():
    model = ModelConfig(
        width=np.int64(64), dropout=np.float32(0.5), step_size=1, tied=np.bool_(False), kind=np.str_("masked")
    )
    assert model == ModelConfig(width=64, dropout=0.5, step_size=1.0, tied=False, kind="masked")
    assert hash(model) == hash(ModelConfig(width=64, dropout=0.5, tied=False, kind="masked"))
    kinds = [type(getattr(model, name)) for name in ("width", "dropout", "step_size", "tied", "kind")]
    assert kinds == [int, float, float, bool, str]
    assert DepthConfig(steps=np.int32(3)) == DepthConfig(steps=3)


def test_lists_become_tuples():
    settings = StudySettings(recipe="recipe.toml", baseline="plain", seeds=[0, 1], evaluate=[4])
    assert (settings.seeds, settings.evaluate) == ((0, 1), (4,))


def test_hints_are_read_once_a_class():
    assert hints(ModelConfig) is hints(ModelConfig)


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), fields_of(float))
def test_every_float_is_one_that_float32_holds(kind, name):
    for value in (math.inf, -math.inf, 1e-320, 1.1e-38, 3.5e38, 10**400):
        assert "size that float32 holds, from 1.2e-38 to 3.4e+38" in refusal(kind, **{name: value})
    assert f"{name} = nan" in refusal(kind, **{name: math.nan})


@pytest.mark.parametrize(("kind", "name"), fields_of(int))
@pytest.mark.parametrize("value", [2**32 + 1, 99999999999999999999999])
def test_every_integer_has_an_upper_bound(kind, name, value):
    assert f"{name} = {value}: must be at most " in refusal(kind, **{name: value})


def test_an_integer_too_long_to_print_is_refused_in_one_line():
    assert refusal(ModelConfig, width=10**5000) == (
        "model.width = an integer of 16610 bits: must be at most 2147483647 (sizes and counts have 31 bits)"
    )
    assert refusal(ModelConfig, width=-(10**5000)).startswith("model.width = an integer of 16610 bits: must be at lea")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"rotary_base": 1e-37}, "model.rotary_base = 1e-37: must be at least 1"),
        (ModelConfig, {"steps": 10_001}, "model.steps = 10001: must be at most 10000"),
        (DepthConfig, {"steps": 10_001}, "depth.steps = 10001: must be at most 10000"),
        (InferConfig, {"steps": 10_001}, "steps = 10001: must be at most 10000"),
        (InferConfig, {"task": "sweep", "at": "4,10001"}, "at = 10001: must be at most 10000"),
        (ObjectiveConfig, {"steps": "uniform:4,10001"}, "objective.steps = 10001: must be at most 10000"),
        (StudySettings, {"evaluate": [10_001]}, "study.evaluate[0] = 10001: must be at most 10000"),
        (DataConfig, {"vocab_size": 1_000_001}, "data.vocab_size = 1000001: must be at most 1000000"),
        (ModelConfig, {"length": 2**24 + 1}, "model.length = 16777217: must be at most 16777216 (float32 counts posit"),
        (ModelConfig, {"output_init": 1001}, "model.output_init = 1001.0: must be at most 1000"),
        (InferConfig, {"task": "bench", "batch_size": 65_537}, "batch_size = 65537: must be at most 65536"),
        (InferConfig, {"repetition_penalty": 1e-31}, "repetition_penalty = 1e-31: must lie in [1e-30, 1e+30]"),
        (InferConfig, {"repetition_penalty": 1e31}, "repetition_penalty = 1e+31: must lie in [1e-30, 1e+30]"),
        (InferConfig, {"temperature": 1e-38}, "temperature = 1e-38: must be 0 or of a size that float32 holds, from "),
    ],
)
def test_bounds_of_their_own(kind, values, message):
    assert refusal(kind, **values).startswith(message)


# --- seeds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "field", "many", "name"),
    [
        (TrainConfig, "seed", False, "train.seed"),
        (InferConfig, "seed", False, "seed"),
        (StudySettings, "seeds", True, "study.seeds[0]"),
        (VariantConfig, "seeds", True, "variant.seeds[0]"),
    ],
)
def test_seeds_have_one_bound(kind, field, many, name):
    least, most = ((0,), (2**32 - 1,)) if many else (0, 2**32 - 1)
    assert getattr(make(kind, **{field: least}), field) == least
    assert getattr(make(kind, **{field: most}), field) == most
    for seed in (2**32, 20240101123):
        said = refusal(kind, **{field: (seed,) if many else seed})
        assert said == f"{name} = {seed}: must be at most 4294967295 (seeds have 32 bits)"


def test_a_seed_of_a_function():
    assert [check_seed(seed) for seed in (0, np.int64(7), 2**32 - 1)] == [0, 7, 2**32 - 1]
    for seed, message in (
        (-1, "seed = -1: must be at least 0"),
        (2**32, "seed = 4294967296: must be at most 4294967295"),
        (1.0, "seed = 1.0: must be int"),
        (True, "seed = True: must be int"),
    ):
        with pytest.raises(UserError, match=message):
            check_seed(seed)


# --- texts and paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [(InferConfig, "prompt"), (DataConfig, "separator"), (DataConfig, "text_key"), (TrainConfig, "wandb")],
)
def test_stray_bytes_are_no_text(kind, name):
    stray = b"caf\xe9".decode(errors="surrogateescape")
    assert f"{name} = 'caf\\udce9': holds bytes that are no UTF-8 text" in refusal(kind, **{name: stray})
    assert getattr(make(kind, **{name: "café 漢字"}), name) == "café 漢字"


def test_stray_bytes_may_stand_in_a_path():
    stray = b"caf\xe9.txt".decode(errors="surrogateescape")
    assert InferConfig(file=stray).file == DataConfig(files=stray).files == stray


def test_a_path_object_is_its_text():
    assert Config(out=Path("runs/a")).out == "runs/a"
    with pytest.raises(UserError, match=r"prompt = .*: must be str"):
        InferConfig(prompt=Path("runs/a"))


def test_flags_and_python_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--checkpoint", "~/run", "--compiled=~/programs", "--seed", "4294967295", "--temperature", "1"]
    made = InferConfig(checkpoint="~/run", compiled="~/programs", seed=2**32 - 1, temperature=1)
    assert parse(InferConfig, flags) == made
    assert made.checkpoint == f"{tmp_path}/run"


def test_what_fits_is_given_back_as_it_is():
    value = {"a": [1, {"b": None}]}
    assert fit(typing.Any, value, "x") is value
    assert fit(int | None, None, "x") is None
    assert fit(float | int | None, 3, "x") == 3
