"""~ is the home folder wherever a configuration holds a path, and nothing else becomes one."""

import pytest

from jaxode.config import (
    Config,
    DataConfig,
    InferConfig,
    StudyCommand,
    StudySettings,
    UserError,
    from_dict,
    parse,
    parse_command,
)
from jaxode.config.places import cache_root, expand


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "home")


@pytest.mark.parametrize(
    ("kind", "needed", "names"),
    [
        (Config, {}, "out"),
        (DataConfig, {}, "files root cache tokenizer"),
        (InferConfig, {}, "checkpoint file compiled out"),
        (InferConfig, {"task": "export", "out": "exported"}, "notes"),
        (StudyCommand, {"study": "study.toml"}, "study out results"),
        (StudySettings, {"recipe": "recipe.toml", "baseline": "plain"}, "recipe"),
    ],
)
def test_home_in_every_path(home, kind, needed, names):
    for name in names.split():
        assert getattr(kind(**(needed | {name: "~/x"})), name) == f"{home}/x"


def test_toml_flags_and_python_agree(home, tmp_path):
    made = Config(out="~/runs/a", data=DataConfig(files="~/texts/*.txt"))
    assert made.out == f"{home}/runs/a"
    assert from_dict(Config, {"out": "~/runs/a", "data": {"files": "~/texts/*.txt"}}, "run.toml") == made
    assert parse(Config, ["--out=~/runs/a", "--data.files", "~/texts/*.txt"]) == made
    assert parse_command(StudyCommand, ["~/study.toml"]).study == f"{home}/study.toml"
    (tmp_path / "home").mkdir()
    (tmp_path / "home/run.toml").write_text('out = "~/runs/a"\n[data]\nfiles = "~/texts/*.txt"\n')
    assert parse(Config, ["--config=~/run.toml"]) == parse(Config, ["--config", "~/run.toml"]) == made


@pytest.mark.parametrize("path", ["", "none", "books-causal", "albert/albert-base-v2", "a/~b", "./~", "a~", " ~/x"])
def test_what_does_not_begin_with_it_stays(home, path):
    assert InferConfig(checkpoint=path).checkpoint == path


def test_the_home_of_nobody_is_refused(home, tmp_path):
    with pytest.raises(UserError) as refused:
        Config(out="~nobodyhere/x")
    assert str(refused.value) == (
        'out = "~nobodyhere/x": no home folder of ~nobodyhere is known here; write ./~nobodyhere/x if that is its name'
    )
    with pytest.raises(UserError, match=r"run\.toml: out = "):
        from_dict(Config, {"out": "~nobodyhere/x"}, "run.toml")
    # but a file that is called so is that file, as for a shell
    (tmp_path / "~nobodyhere.txt").touch()
    assert expand("file", "~nobodyhere.txt") == "~nobodyhere.txt"


def test_the_cache_folder_of_the_environment(home, monkeypatch):
    monkeypatch.setenv("JAXODE_CACHE", "~/cache")
    assert str(cache_root()) == f"{home}/cache"
    monkeypatch.setenv("JAXODE_CACHE", "~nobodyhere/cache")
    with pytest.raises(UserError, match='JAXODE_CACHE = "~nobodyhere/cache": no home folder'):
        cache_root()
    monkeypatch.delenv("JAXODE_CACHE")
    assert str(cache_root()) == f"{home}/.cache/jaxode"
