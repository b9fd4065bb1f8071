"""Reading a configuration: flags win over TOML over defaults; what is written reads back the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxode.config import (
    Config,
    DataConfig,
    DepthConfig,
    InferConfig,
    ModelConfig,
    OptimizerConfig,
    StudyCommand,
    StudyConfig,
    TrainConfig,
    UserError,
    from_dict,
    from_toml,
    parse,
    parse_fields,
    to_dict,
    to_toml,
)


def toml(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- TOML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nwidht = 64", "unknown key model.widht; did you mean model.width?"),
        ("[modle]\nwidth = 64", "unknown key modle; did you mean model?"),
        ("[train]\nzzz = 1", "unknown key train.zzz; allowed are accumulate, batch_size,"),
        ('[model]\nwidth = "64"', "model.width = '64': must be int"),
        ("[model]\nwidth = 64.0", "model.width = 64.0: must be int"),
        ("[model]\nwidth = true", "model.width = True: must be int"),
        ("[model]\ndropout = true", "model.dropout = True: must be float"),
        ("[model]\ntied = 1", "model.tied = 1: must be bool"),
        ("[model]\nwidth = [64]", "model.width = [64]: must be int"),
        ("[depth]\nsteps = 2.5", "depth.steps = 2.5: must be int or None"),
        ("[depth]\nsteps = true", "depth.steps = True: must be int or None"),
        ("[data]\nfiles = 3", "data.files = 3: must be str"),
        (
            '[model]\nkind = "casual"',
            "model.kind = 'casual': must be one of 'causal', 'masked'; did you mean 'causal'?",
        ),
        ("[model]\nkind = 1", "model.kind = 1: must be one of 'causal', 'masked'"),
        ("model = 3", "model = 3: must be a table"),
        ("[model]\nwidth = 65\nheads = 4", "model.width = 65 is not divisible by model.heads = 4"),
        ("[depth]\nsteps = 0", "depth.steps = 0: must be at least 1"),
        ("resume = true", "resume without out"),
        ("[model\nwidth = 64", "cannot be read as TOML: "),
        ("[model]\nwidth = 64\nwidth = 65", "cannot be read as TOML: "),
    ],
)
def test_refused_toml_names_file_and_key(tmp_path, text, message):
    path = toml(tmp_path, text)
    with pytest.raises(UserError) as refusal:
        from_toml(Config, path)
    assert str(refusal.value).startswith(f"{path}: {message}")
    assert str(refusal.value).count(str(path)) == 1


def test_missing_toml_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.toml: no such config file"):
        parse(Config, ["--config", str(tmp_path / "absent.toml")])


def test_folder_and_binary_file_are_no_toml(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary"):
        with pytest.raises(UserError, match="cannot be read as TOML"):
            from_toml(Config, path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[model]\nlength = 32\n")
    assert from_toml(Config, tmp_path / "bom.toml") == Config(model=ModelConfig(length=32))
    (tmp_path / "study.toml").write_bytes(
        b'\xef\xbb\xbf[study]\nrecipe = "run.toml"\nbaseline = "plain"\n[[variant]]\nname = "plain"\n'
    )
    assert from_toml(StudyConfig, tmp_path / "study.toml").study.recipe == "run.toml"
    # anywhere else it is a mistake, as TOML says
    with pytest.raises(UserError, match="cannot be read as TOML"):
        from_toml(Config, toml(tmp_path, "[model]\n\ufefflength = 32"))


def test_a_number_of_thousands_of_digits_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run\.toml: cannot be read as TOML: "):
        from_toml(Config, toml(tmp_path, f"[model]\nwidth = {'9' * 5000}"))


def test_integer_is_a_float_where_a_float_is_wanted(tmp_path):
    rate = from_toml(Config, toml(tmp_path, "[optimizer]\nlearning_rate = 1")).optimizer.learning_rate
    assert (rate, type(rate)) == (1.0, float)


# --- flags ----------------------------------------------------------------------------------------------------------


def test_flags_win_over_toml_over_defaults(tmp_path):
    path = str(toml(tmp_path, '[model]\nwidth = 64\nsteps = 6\n[depth]\nsteps = 3\n[data]\ncorpus = "books"'))
    for config_flag in (["--config", path], [f"--config={path}"]):
        config = parse(Config, ["--model.width", "32", *config_flag, "--model.no-tied", "--out", "runs/a"])
        assert config == Config(
            model=ModelConfig(width=32, steps=6, tied=False),  # a flag, TOML, a flag
            depth=DepthConfig(steps=3),
            data=DataConfig(corpus="books"),
            out="runs/a",
        )


def test_base_is_read_where_no_config_flag_stands(tmp_path):
    base, other = tmp_path / "base.toml", tmp_path / "other.toml"
    base.write_text("[model]\nwidth = 64\nsteps = 6")
    other.write_text("[model]\nwidth = 32")
    assert parse(Config, ["--model.steps", "3"], base=base).model == ModelConfig(width=64, steps=3)
    assert parse(Config, ["--config", str(other)], base=base).model == ModelConfig(width=32)
    with pytest.raises(UserError, match=r"absent\.toml: no such config file"):
        parse(Config, [], base=tmp_path / "absent.toml")


def test_some_fields_are_read_whatever_the_others_say(tmp_path):
    path = str(toml(tmp_path, 'out = "runs/a"\n[train]\npatience = 3'))
    cases = {
        (): (False, ""),
        ("--resume", "--train.patience", "3", "--out=runs/b"): (True, "runs/b"),
        ("--resume", "--out", "~/b", "--no-resume"): (False, str(Path.home() / "b")),
        ("--config", path, "--resume"): (True, "runs/a"),
        # what `parse` answers
        ("--resume", "--out"): (False, ""),
        ("--resume", "--out", "b", "--help"): (False, ""),
    }
    for flags, (resume, out) in cases.items():
        assert parse_fields(Config, flags, ("resume", "out")) == {"resume": resume, "out": out}
    with pytest.raises(UserError, match=r"absent\.toml: no such config file"):
        parse_fields(Config, ["--config", "absent.toml"], ("out",))
    with pytest.raises(UserError, match=r"^resume = 1: must be"):
        parse_fields(Config, ["--config", str(toml(tmp_path, "resume = 1"))], ("resume",))


def test_flags_reach_nested_fields_and_none():
    assert parse(Config, []) == Config()
    assert parse(Config, ["--depth.steps", "4", "--train.batch_size", "8"]).depth.steps == 4
    assert parse(InferConfig, ["--steps", "None", "--prompt", "Hello"]).steps is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.widht", "64"], "--model.width"),
        (["--trian.updates", "64"], "--train.updates"),
        (["--model.width", "wide"], "--model.width"),
        (["--model.width", "64.5"], "--model.width"),
        (["--model.kind", "casual"], "causal"),
    ],
)
def test_refused_flag_exits_with_2_and_names_the_right_one(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        parse(Config, flags)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.replace("│", " ").split())
    assert out == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.width", "65", "--model.heads", "4"], "model.width = 65 is not divisible"),
        (["--depth.steps", "0"], "depth.steps = 0: must be"),
        (["--data.corpus", "files"], "data.files is empty"),
        (["--resume"], "resume without out"),
    ],
)
def test_a_refused_value_is_the_same_one_line_as_in_a_file(capsys, flags, message):
    with pytest.raises(UserError) as refused:
        parse(Config, flags)
    assert str(refused.value).startswith(message)
    assert capsys.readouterr() == ("", "")


def test_config_flag_needs_a_path():
    with pytest.raises(UserError, match="--config needs the path of a TOML file"):
        parse(Config, ["--config"])


@pytest.mark.parametrize("kind", ["Config", "InferConfig"])
def test_help_shows_every_knob_without_jax(kind):
    code = (
        "import sys\n"
        f"from jaxode.config import {kind}, parse\n"
        "try:\n"
        f"    parse({kind}, ['--help'])\n"
        "except SystemExit as stop:\n"
        "    heavy = {'jax', 'numpy', 'tensorflow', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else stop.code)\n"
        "sys.exit('no exit')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    wanted = ["--config FILE.toml", "--help"]
    wanted += ["--model.width", "--depth.steps", "--train.updates"] if kind == "Config" else ["--prompt", "--steps"]
    assert [w for w in wanted if w not in done.stdout] == []


# --- round trip -----------------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12)
places = text.filter(lambda path: not path.startswith("~"))  # the home folder, or of nobody
shares = st.just(0.0) | st.floats(1e-37, 0.9)  # what float32 holds
models = st.builds(
    lambda heads, half_width, groups, repeats, **rest: ModelConfig(
        heads=heads, width=heads * half_width * 2, groups=groups, steps=groups * repeats, sharing="cycle", **rest
    ),
    heads=st.integers(1, 16),
    half_width=st.integers(1, 64),
    groups=st.integers(1, 4),
    repeats=st.integers(1, 8),
    kind=st.sampled_from(["causal", "masked"]),
    dropout=shares,
    tied=st.booleans(),
)
configs = st.builds(
    Config,
    model=models,
    depth=st.builds(DepthConfig, steps=st.none() | st.integers(1, 64), tolerance=st.floats(1e-12, 1.0)),
    data=st.builds(DataConfig, separator=text, files=places, vocab_size=st.integers(300, 100_000)),
    optimizer=st.builds(OptimizerConfig, learning_rate=st.floats(1e-37, 1e3), warmup_fraction=shares),
    train=st.just(TrainConfig(updates=1000)),
    out=places,
)


@settings(deadline=None, max_examples=15)  # a shared machine stalls
@given(configs)
def test_to_dict_and_from_dict_are_inverse(config):
    assert from_dict(Config, to_dict(config), source="test") == config


@settings(deadline=None, max_examples=15)  # a shared machine stalls
@given(configs)
def test_a_config_survives_toml(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(tomli_w.dumps(to_dict(config)), encoding="utf-8")
    assert from_toml(Config, path) == config


def test_a_path_that_is_no_text_cannot_be_kept():
    with pytest.raises(UserError, match=r"data.files = 'caf\\udce9/\*': holds bytes that are no UTF-8 text"):
        to_toml(Config(data=DataConfig(files="caf\udce9/*")))
    assert to_toml(StudyCommand(study="café")).startswith('study = "café"')


def test_to_dict_drops_none():
    assert "steps" not in to_dict(Config())["depth"]
    assert to_dict(Config(depth=DepthConfig(steps=2)))["depth"]["steps"] == 2
