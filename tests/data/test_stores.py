"""Kept folders: damage is met and mended, others may read them, and what the system refuses is one line."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxode.config import DataConfig, UserError
from jaxode.data import checksums, prepare, stores
from jaxode.data.checksums import CHECKSUMS
from jaxode.data.stores import make_folder

LENGTH = 32


def ready(data: DataConfig):
    return prepare(data, LENGTH, "causal", progress=False)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit flipped": flip,
    "missing": lambda path: path.unlink(),
}
FILES = {
    "rows": (
        "train.tokens",
        "validation.tokens",
        "stats.json",
        "identity.json",
        CHECKSUMS,
    ),
    "documents": (
        "*/*/dataset_info.json",
        "*/*/features.json",
        "*/*/*-train.array_record*",
        "*/*/*-validation.array_record*",
        CHECKSUMS,
    ),
    "tokenizers": ("tokenizer.json", "jaxode_tokenizer.json", CHECKSUMS),
}


@pytest.mark.broad
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(("room", "pattern"), [(room, pattern) for room in FILES for pattern in FILES[room]])
def test_damage_is_said_and_mended(corpus: DataConfig, capfd: pytest.CaptureFixture[str], kind, room, pattern):
    before = ready(corpus)
    batch = before.train(4, 0).at(3)
    (folder,) = (Path(corpus.cache) / room).iterdir()
    (path,) = folder.glob(pattern)
    DAMAGE[kind](path)
    after = ready(corpus)
    assert np.array_equal(batch.tokens, after.train(4, 0).at(3).tokens)
    assert (after.stats, after.identity) == (before.stats, before.identity)
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(folder)]
    # a checksum that is no longer that of its file tells of the file
    name = path.relative_to(folder) if (pattern, kind) != (CHECKSUMS, "one bit flipped") else ""
    assert f"{name} is {'missing' if kind == 'missing' else ''}" in lines[0]
    assert lines[0].endswith("; prepared anew")
    ready(corpus)
    assert capfd.readouterr().err == ""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left behind"


@pytest.mark.parametrize("content", ["[]", "null", '{"name": "x"}', '{"name": null}', "{"])
def test_checksums_that_are_none(tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str):
    folder = make_folder(tmp_path / "set", lambda partial: (partial / "name").write_text("old") and None)
    (folder / CHECKSUMS).write_text(content)
    make_folder(folder, lambda partial: (partial / "name").write_text("new") and None)
    assert (folder / "name").read_text() == "new"
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_file_in_the_place_of_a_folder_is_replaced(tmp_path: Path):
    (tmp_path / "set").write_text("a file")
    make_folder(tmp_path / "set", lambda partial: None)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set").is_dir()


def test_of_two_processes_that_mend_the_second_keeps_the_first_result(tmp_path: Path):
    folder = make_folder(tmp_path / "set", lambda partial: (partial / "name").write_text("old") and None)
    (folder / "name").unlink()

    def slow(partial: Path) -> None:
        (partial / "name").write_text("second")
        make_folder(folder, lambda other: (other / "name").write_text("first") and None)

    make_folder(folder, slow)
    assert (folder / "name").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_folders_get_the_mode_that_the_umask_gives(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        folder = make_folder(tmp_path / "set", lambda partial: (partial / "name").write_text("a") and None)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (folder / CHECKSUMS).stat().st_mode & 0o777 == 0o666 & ~mask


def refuse(reason: int):
    def call(*args, **kwargs):
        raise OSError(reason, os.strerror(reason))

    return call


REFUSALS = {
    "no folder can be made": (Path, "mkdir", errno.EACCES),
    "the disk is full": (checksums.zlib, "crc32", errno.ENOSPC),
    "no folder can be published": (os, "rename", errno.EROFS),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_system_refuses_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    home, name, reason = REFUSALS[case]
    monkeypatch.setattr(home, name, refuse(reason))
    with pytest.raises(
        UserError, match=rf"set: cannot be written \({os.strerror(reason)}\); data\.cache must"
    ) as caught:
        make_folder(tmp_path / "set", lambda partial: (partial / "name").write_text("a") and None)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_under_array_record(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise RuntimeError("write() failed: No space left on device; writing a/b; at byte 5")

    monkeypatch.setattr(stores.tfds.core.SequentialWriter, "add_examples", full)
    with pytest.raises(
        UserError, match=r"cannot be written \(write\(\) failed: No space left on device\); data\.cache"
    ):
        ready(corpus)


def test_a_file_where_a_room_of_the_cache_should_be(corpus: DataConfig):
    Path(corpus.cache).mkdir()
    (Path(corpus.cache) / "documents").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* data\.cache must be a folder"):
        ready(corpus)


def test_what_cannot_be_read_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    folder = make_folder(tmp_path / "set", lambda partial: (partial / "name").write_text("a") and None)
    monkeypatch.setattr(Path, "read_bytes", refuse(errno.EACCES))
    with pytest.raises(UserError, match=r"set: cannot be read \(Permission denied\).*data\.cache"):
        make_folder(folder, lambda partial: None)
    assert capfd.readouterr().err == ""
    assert (folder / "name").read_text() == "a"


def test_a_cache_that_holds_what_is_needed_is_only_read(corpus: DataConfig, monkeypatch: pytest.MonkeyPatch):
    before = ready(corpus)
    for name in ("rename", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse(errno.EROFS))

    def mkdir(path, *args, **kwargs):
        # as a read-only disk answers
        raise OSError(errno.EEXIST if os.path.isdir(path) else errno.EROFS, "refused")

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert ready(corpus).stats == before.stats
    with pytest.raises(UserError, match=r"data\.cache"):
        ready(replace(corpus, vocab_size=310))


def test_checksums_name_every_file(corpus: DataConfig):
    ready(corpus)
    (folder,) = (Path(corpus.cache) / "rows").iterdir()
    listed = set(json.loads((folder / CHECKSUMS).read_text()))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == there - {CHECKSUMS}
