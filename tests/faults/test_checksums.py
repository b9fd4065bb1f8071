"""What decides what a model computes is as it was written, or is named; what was written before is read as it is."""

import shutil

import pytest
from readers import read_trained
from samples import write_export

from jaxode import load
from jaxode.checkpoint import RunFolder
from jaxode.config import UserError
from jaxode.data.checksums import CHECKSUMS, read_checksums, sealed, unsealed


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "model"
    write_export(folder)
    return folder


@pytest.fixture
def model(written, tmp_path):
    return shutil.copytree(written, tmp_path / "model")


NAMES = ("config.toml", "tokenizer/tokenizer.json", "tokenizer/jaxode_tokenizer.json", "weights.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_in_any_file_is_named(model, name):
    content = (model / name).read_bytes()
    for place in (0.3, 0.6, 0.9):
        changed = bytearray(content)
        changed[int(place * len(content))] ^= 1
        (model / name).write_bytes(changed)
        with pytest.raises(UserError, match=f"{name}: is damaged: "):
            read_trained(model)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(model, name):
    (model / name).unlink()
    with pytest.raises(UserError, match=name):
        read_trained(model)


def test_a_setting_that_would_fit_as_well_is_noticed(model):
    """Nothing but the checksum tells one from the other."""
    text = (model / "config.toml").read_text()
    assert "embedding_scale = 1.0\n" in text
    (model / "config.toml").write_text(text.replace("embedding_scale = 1.0\n", "embedding_scale = 0.5\n"))
    with pytest.raises(
        UserError, match=r"config\.toml: is damaged: .*; copy it again, or remove checksums\.json where"
    ):
        RunFolder(model).config()
    (model / CHECKSUMS).unlink()
    assert RunFolder(model).config().model.embedding_scale == 0.5


def test_a_calibration_that_is_gone_is_named(model, capfd):
    (model / "calibration-3.json").unlink()
    load(model)
    assert "calibration-3.json: missing, though it was exported with the model" in capfd.readouterr().err


def test_what_was_written_before_there_were_checksums_is_read(model, written):
    (model / CHECKSUMS).unlink()
    assert read_trained(model) == read_trained(written)


def test_a_run_keeps_checksums_of_its_settings_and_tokenizer(tmp_path, written):
    run = RunFolder(written)
    config, tokenizer = run.config(), run.tokenizer()
    RunFolder(tmp_path / "run").create(config, tokenizer)
    assert read_checksums(tmp_path / "run").keys() == set(NAMES[:3])


@pytest.mark.parametrize("content", ["", "[]", '{"config.toml": "x"}', "\0", "[" * 5000])
def test_checksums_that_are_none_are_named(model, content):
    (model / CHECKSUMS).write_text(content)
    with pytest.raises(UserError, match=r"checksums\.json: cannot be read .*; copy it again, or remove it"):
        RunFolder(model).config()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "no table"),
        (sealed({"a": 1}) | {"a": 2}, "other numbers"),
        ({"a": 1, "chfcksum": 1}, "unknown field chfcksum"),
    ],
)
def test_a_seal_that_does_not_hold(raw, reason):
    with pytest.raises(ValueError, match=reason):
        unsealed(raw, ("a",))


def test_a_seal_that_holds_or_is_not_there():
    assert unsealed(sealed({"a": 1.5}), ("a",)) == unsealed({"a": 1.5}, ("a",)) == {"a": 1.5}
