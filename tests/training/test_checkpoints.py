"""Steps on disk: what was written is what is read, or is not read at all."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.checkpoint import Checkpoints, RunFolder, load_run
from jaxode.config import Config, DataConfig, ModelConfig, UserError
from jaxode.data import byte_tokenizer
from jaxode.model import make_model
from jaxode.model.parameters import split

TOKENIZER = byte_tokenizer()
MODEL = ModelConfig(vocab_size=TOKENIZER.vocab_size, width=8, heads=1, length=16, steps=2)
POSITION = {"step": 7, "seed": 0, "batch_size": 4, "rows": 99}


def state(step):
    """Parameters, optimizer state and data position of a step."""
    _, params = split(make_model(MODEL))
    params = {name: (1 + step) * value for name, value in params.items()}
    return params, ({"mu": params, "count": jnp.asarray(step)},), POSITION | {"step": step}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("written") / "run")
    run.create(Config(model=MODEL, data=DataConfig(tokenizer="bytes")), TOKENIZER)
    with Checkpoints(run) as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, *state(step))
        checkpoints.wait()
    return run


@pytest.fixture
def run(written, tmp_path):
    return RunFolder(shutil.copytree(written.path, tmp_path / "run"))


def restore(run):
    params, optimizer, _ = state(0)
    with Checkpoints(run) as checkpoints:
        return checkpoints.restore(params, optimizer)


def assert_as_written(restored):
    params, optimizer, position = state(restored.step)
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)
    jax.tree.map(np.testing.assert_array_equal, restored.optimizer, optimizer)
    assert restored.position == position


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << (at % 7)
    path.write_bytes(bytes(content))


def newest(run, item=""):
    """Files of the newest step, the largest first."""
    files = [path for path in (run.checkpoints / "7" / item).rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: (-path.stat().st_size, path.name))


def as_of_before(run, step):
    """Make a step what was written before there were fingerprints."""
    folder = run.checkpoints / str(step)
    shutil.rmtree(folder / "fingerprints")
    about = folder / "_CHECKPOINT_METADATA"
    entry = '"fingerprints": "orbax.checkpoint._src.handlers.json_checkpoint_handler.JsonCheckpointHandler", '
    assert entry in about.read_text()
    about.write_text(about.read_text().replace(entry, ""))


def test_the_newest_step_is_read_as_it_was_written(run, capfd):
    restored = restore(run)
    assert restored.step == 7
    assert_as_written(restored)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("item", ["params", "optimizer", "position", "fingerprints", ""])
@pytest.mark.broad
def test_a_flipped_bit_is_noticed_or_changes_nothing(run, capfd, item):
    files = [path for path in newest(run, item) if item or path.parent.name == "7"]
    passed_over = 0
    for path in files:
        content = path.read_bytes()
        for place in (0.07, 0.45, 0.8):
            flip(path, int(place * len(content)))
            restored = restore(run)
            assert_as_written(restored)
            if restored.step == 3:
                passed_over += 1
                note = capfd.readouterr().err.splitlines()[0]
                assert "7: checkpoint is damaged or incomplete (" in note or "/7: tensor" in note
                assert note.endswith("; the checkpoint of update 3 is taken in its place")
            path.write_bytes(content)
    assert passed_over > 0 or not item


@pytest.mark.broad
@pytest.mark.parametrize("item", ["params", "optimizer"])
def test_other_numbers_are_noticed(run, capfd, item):
    """In the file that holds most of the numbers nothing but the fingerprint shows a flipped bit."""
    path = newest(run, item)[0]
    for place in (0.2, 0.3, 0.4, 0.5, 0.6):
        at = int(place * path.stat().st_size)
        flip(path, at)
        assert_as_written(restore(run))
        flip(path, at)
    assert f"7: checkpoint is damaged or incomplete ({item}: not what was written)" in capfd.readouterr().err


def test_another_place_in_the_data_is_noticed(run, capfd):
    path = run.checkpoints / "7" / "position" / "metadata"
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    assert restore(run).step == 3
    assert "(position: not what was written)" in capfd.readouterr().err


def test_fingerprints_that_are_missing_are_damage(run, capfd):
    shutil.rmtree(run.checkpoints / "7" / "fingerprints")
    assert restore(run).step == 3
    assert "7: checkpoint is damaged or incomplete" in capfd.readouterr().err


def test_a_model_is_read_from_the_older_step_where_the_newest_is_damaged(run, capfd):
    path = newest(run, "params")[0]
    flip(path, path.stat().st_size // 2)
    trained = load_run(run.path)
    assert trained.step == 3
    jax.tree.map(np.testing.assert_array_equal, trained.params, state(3)[0])
    assert "; the checkpoint of update 3 is taken in its place" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"7: checkpoint is damaged or incomplete .*; copy it again or take another"):
        load_run(run.path, step=7)


def test_where_every_step_is_damaged_the_newest_is_named(run, capfd):
    for step in (3, 7):
        (run.checkpoints / str(step) / "params" / "_METADATA").unlink()
    with pytest.raises(UserError, match="7: checkpoint is damaged or incomplete"):
        restore(run)
    with pytest.raises(UserError, match="7: checkpoint is damaged or incomplete"):
        load_run(run.path)
    assert "taken in its place" not in capfd.readouterr().err


def test_steps_without_fingerprints_are_read_as_before(run, capfd):
    as_of_before(run, 7)
    restored = restore(run)
    assert restored.step == 7
    assert_as_written(restored)
    assert load_run(run.path).step == 7
    assert capfd.readouterr().err == ""


def test_a_step_set_aside_is_kept_and_its_number_is_free(run, capfd):
    with Checkpoints(run) as checkpoints:
        checkpoints.set_aside(after=3)
        assert checkpoints.latest == 3
        checkpoints.save(7, *state(7))
        checkpoints.wait()
        assert checkpoints.steps == [7, 3]
        checkpoints.set_aside(after=3)
    assert "checkpoints/7: cannot be read and now lies in 7.damaged" in capfd.readouterr().err
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["3", "7.damaged", "7.damaged-2"]
    assert load_run(run.path).step == 3
