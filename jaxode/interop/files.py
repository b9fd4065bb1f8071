"""The files of a Hugging Face model: where they lie, its config.json, the shards of its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxode.config import UserError, require
from jaxode.config.parsing import parse_json
from jaxode.data.network import hub_reachable
from jaxode.data.tokenizer_files import TOKENIZER_FILES

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PYTORCH = "pytorch_model.bin"
INDEX = ".index.json"

Rows = Callable[[slice], np.ndarray]
"""Rows of a tensor, read when it is called; all that there is of one without axes."""


def locate(name: Path | str) -> Path:
    """The folder of a model: itself, or what the Hugging Face cache or hub holds under a name.

    Raises:
        UserError: there is no such folder, or the name cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    name = str(name)
    remedy = "give the folder or the hub name of a Hugging Face model"
    is_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith(".") and not path.exists()
    require(bool(is_name), f"{name}: no such folder; {remedy}")
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, *TOKENIZER_FILES]
    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if (cached / CONFIG).is_file() and _layout(cached):
            return cached
    except Exception:
        pass  # many kinds for a name that is not in the cache
    # the hub client retries for most of a minute without a network, so look before asking
    if not hub_reachable():
        raise UserError(f"{name}: not on this machine, and the Hugging Face hub cannot be reached; {remedy}")
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*wanted, "model*.safetensors", f"{SAFETENSORS}.*"]))
        if not _layout(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, "pytorch_model*.bin", f"{PYTORCH}.*"]))
    except Exception as error:
        raise UserError(f"{name}: cannot be fetched ({_first_line(error)}); {remedy}") from None
    return folder


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face model rather than a run."""
    theirs = (folder / CONFIG).is_file() or _layout(folder) is not None
    return theirs and not (folder / "config.toml").exists()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it is.

    Raises:
        UserError: it is missing or no JSON object.
    """
    path = folder / CONFIG
    require(path.is_file(), f"{path}: missing; {folder} holds no Hugging Face model")
    raw = _json(path)
    require(isinstance(raw, dict), f"{path}: must be a JSON object")
    return raw


def shards(folder: Path) -> tuple[dict[Path, Shard], dict[str, str]]:
    """The files that hold the weights, and what an index says: tensor names to file names, empty without one.

    Safetensors are preferred.

    Raises:
        UserError: no weights, a missing shard, or an index that names none.
    """
    path = _layout(folder)
    if path is None:
        raise UserError(
            f"{folder}: holds no weights: neither {SAFETENSORS} nor {PYTORCH}, whole or in parts with an index"
        )
    kind = SafetensorsShard if path.name.startswith(SAFETENSORS) else PyTorchShard
    if path.suffix != ".json":
        return {path: kind(path)}, {}
    raw = _json(path)
    parts = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(parts, dict):
        raise UserError(f"{path}: holds no weight_map of tensor names to file names")
    require(
        bool(parts) and all(isinstance(part, str) and Path(part).name == part for part in parts.values()),
        f"{path}: its weight_map must name files in the same folder",
    )
    for part in sorted(set(parts.values())):
        require(_is_file(folder / part), f"{folder / part}: missing, though {path.name} names it; copy it again")
    return {folder / part: kind(folder / part) for part in sorted(set(parts.values()))}, parts


@dataclass(frozen=True)
class SafetensorsShard:
    """A .safetensors file."""

    path: Path

    def header(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type by name, such as BF16; the length of the file is checked too.

        Raises:
            UserError: a damaged or cut-off file.
        """
        with self._readable(), safe_open(self.path, framework="numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}

    @contextmanager
    def rows(self, name: str) -> Iterator[Rows]:
        """The numbers of a tensor out of the mapped file.

        Raises:
            UserError: a damaged or cut-off file.
        """
        # mapped anew for every tensor: pages that were read count as memory until the file is unmapped
        with self._readable():
            file = safe_open(self.path, framework="numpy")

        def read(at: slice) -> np.ndarray:
            with self._readable():
                part = file.get_slice(name)
                return part[at] if part.get_shape() else file.get_tensor(name)

        with file:
            yield read

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            reason = _first_line(error)
            raise UserError(f"{self.path}: cannot be read as safetensors ({reason}); copy it again") from None


@dataclass(frozen=True)
class PyTorchShard:
    """A .bin file of PyTorch, read as tensors only: a pickle could run any code."""

    path: Path

    def header(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type by name, such as bfloat16.

        Raises:
            UserError: torch is not installed, a damaged file, or one of other things than tensors.
        """
        return {
            name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._tensors.items()
        }

    @contextmanager
    def rows(self, name: str) -> Iterator[Rows]:
        """The numbers of a tensor out of the mapped file; a file older than PyTorch 1.6 is held in memory."""
        tensor = self._tensors[name]
        yield lambda at: _array(tensor[at] if tensor.ndim else tensor)

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        try:
            import torch  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(
                f'{self.path}: reading PyTorch weights needs torch: pip install "jaxode[torch]", or use a '
                "model.safetensors"
            ) from None
        try:
            # only archives can be mapped
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_zipfile(self.path))
            return {name: tensor.detach() for name, tensor in content.items()}
        except Exception as error:  # torch raises many kinds for a damaged file, and one for a pickle of other things
            raise UserError(f"{self.path}: cannot be read as PyTorch tensors alone ({_first_line(error)})") from None


Shard = SafetensorsShard | PyTorchShard
"""One file of weights: its header, which tells names, shapes and types, and the numbers of one tensor at a time."""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _layout(folder: Path) -> Path | None:
    names = (SAFETENSORS, SAFETENSORS + INDEX, PYTORCH, PYTORCH + INDEX)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _array(tensor: Any) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]

    # NumPy knows no bfloat16
    half = tensor.dtype == torch.bfloat16
    return tensor.view(torch.int16).numpy().view(jnp.bfloat16) if half else tensor.numpy()


def _json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
