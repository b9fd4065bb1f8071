"""A run's folder on disk, and folders that appear whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jaxode import hosts
from jaxode.checkpoint.made_by import RECORD, check_record, plugins_of, write_record
from jaxode.config import Config, HostsConfig, UserError, from_toml, require, to_toml
from jaxode.data import Tokenizer
from jaxode.data.checksums import CHECKSUMS, check_files, files_below, read_checksums, write_checksums
from jaxode.weights import WEIGHTS

if sys.platform != "win32":
    import fcntl

RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """One training run on disk."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the steps lie."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def init(self) -> Path:
        """Which weights a run began with, as JSON; of one that began anew there is none."""
        return self.path / "init.json"

    @property
    def best(self) -> Path:
        """Which checkpoint validated best, as JSON; of a run that chooses none there is none."""
        return self.path / "best.json"

    @property
    def exported(self) -> bool:
        """Whether the folder holds an exported model: its weights alone, and no run to continue."""
        return (self.path / WEIGHTS).is_file() and not self.checkpoints.exists()

    def check_free(self) -> None:
        """Refuse a folder that already holds a run: it is never overwritten.

        Raises:
            UserError: it does.
        """
        require(
            not (self.path / "config.toml").exists() and not self.checkpoints.exists() and not self._logged,
            f"{self.path} already holds a run: continue it with --resume, or name another folder with --out",
        )

    def create(self, config: Config, tokenizer: Tokenizer) -> bool:
        """Write config, tokenizer, and which plug-ins the settings name parts of; whether the folder was not there
        before.

        Raises:
            UserError: the folder already holds a run, or cannot be written.
        """
        self.check_free()
        # who trains along is said anew at every start, and so is what code runs
        alone = dataclasses.replace(config.train, hosts=HostsConfig())
        text = to_toml(dataclasses.replace(config, resume=False, plugins=(), train=alone))
        partial = self.path / "config.toml.partial"
        fresh = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tokenizer.save(self.path / "tokenizer")
            write_record(self.path, plugins_of(config))
            partial.write_text(text, encoding="utf-8")
            written = {f"tokenizer/{name}": path for name, path in files_below(self.path / "tokenizer").items()}
            record = {RECORD: self.path / RECORD} if (self.path / RECORD).exists() else {}
            write_checksums(self.path, written | record | {"config.toml": partial})
            os.replace(partial, self.path / "config.toml")
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        return fresh

    @contextmanager
    def held(self, new: bool, fresh: bool = False) -> Iterator[None]:
        """Keep other processes from training here meanwhile.

        A new run that fails with nothing to continue, neither a checkpoint nor a metric, leaves its name free; of a
        fresh folder, which held nothing of the user's, nothing is left.

        Raises:
            UserError: another process trains here, or the folder cannot be written.
        """
        if not hosts.first():
            yield  # process 0 holds it for all
            return
        try:
            file = os.open(self.path / "config.toml", os.O_RDWR)  # NFS locks what is open for writing only
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        try:
            _lock(file, self.path)
            yield
        except BaseException:
            if new and not self._logged:
                self._discard(fresh)
            raise
        finally:
            os.close(file)  # a process that dies lets go as well

    @property
    def _logged(self) -> bool:
        return self.metrics.is_file() and self.metrics.stat().st_size > 0

    def _discard(self, fresh: bool) -> None:
        with suppress(OSError):  # not empty: a checkpoint, or the tokenizer's folder, which may have been the user's
            if self.checkpoints.exists():
                self.checkpoints.rmdir()
            if fresh:
                shutil.rmtree(self.path / "tokenizer", ignore_errors=True)
            for file in (self.metrics, self.init, self.best, self.path / RECORD, self.path / CHECKSUMS):
                file.unlink(missing_ok=True)
            (self.path / "config.toml").unlink()
            self.path.rmdir()

    def check_resumable(self) -> None:
        """Refuse an exported model.

        Raises:
            UserError: it is one.
        """
        require(
            not self.exported,
            f"{self.path}: is an exported model and holds no optimizer state to continue with; resume the run itself",
        )

    def config(self, needed: Collection[str] = ("block", "boundary")) -> Config:
        """The resolved config.

        Args:
            needed: kinds of parts that must be at hand, where plug-ins brought them.

        Raises:
            UserError: no run lies here, its config cannot be read, or a plug-in that it needs is not loaded.
        """
        require(self.path.is_dir(), f"{self.path}: no such run folder")
        require(
            (self.path / "config.toml").is_file(),
            f"{self.path}: holds no config.toml, so it is no run folder; name the folder that train.py printed",
        )
        check_files(self.path, ["config.toml", RECORD])
        check_record(self.path, needed)
        return from_toml(Config, self.path / "config.toml")

    def tokenizer(self) -> Tokenizer:
        """The run's own tokenizer.

        Raises:
            UserError: a file is missing or damaged.
        """
        check_files(self.path, [name for name in read_checksums(self.path) if name.startswith("tokenizer/")])
        return Tokenizer.load(self.path / "tokenizer")


def _lock(file: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another process trains this run; wait for it, or stop it first") from None
    except OSError:  # a file system without locks
        return


def newest_run(root: Path = RUNS) -> Path | None:
    """The run folder under `root` whose checkpoints changed last, by name where several did; None without any."""
    runs = [path.parent for path in root.glob("*/checkpoints") if any(p.name.isdigit() for p in path.iterdir())]
    return max(runs, key=lambda path: ((path / "checkpoints").stat().st_mtime_ns, path), default=None)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; it takes the name when the block ends, and is gone when that fails.

    Raises:
        UserError: `folder` holds something already, or cannot be written.
    """
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder}: already there and not empty; nothing is overwritten: name another folder",
    )
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield aside
        for path in (aside, *aside.rglob("*")):  # what makes temporary files makes them private
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.replace(aside, folder)
    except UserError as error:
        # nobody knows the folder beside
        raise UserError(str(error).replace(str(aside), str(folder))) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
