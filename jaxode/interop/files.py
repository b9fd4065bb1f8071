"""The files of a Hugging Face model: where they lie, its config.json, its tensors by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxode.config import UserError, require
from jaxode.data.tokenizer_files import TOKENIZER_FILES
from jaxode.data.tokenizers import _hub_reachable

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PYTORCH = "pytorch_model.bin"
Tensors = dict[str, np.ndarray]


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
    if not _hub_reachable():
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


def read_tensors(folder: Path) -> Tensors:
    """All tensors by name, floats as float32; safetensors are preferred, and pickles are read as tensors only.

    Raises:
        UserError: no weights, a missing part, a damaged file, or PyTorch weights without torch.
    """
    layout = _layout(folder)
    if layout is None:
        raise UserError(
            f"{folder}: holds no weights: neither {SAFETENSORS} nor {PYTORCH}, whole or in parts with an index"
        )
    file, load = layout
    if file.suffix != ".json":
        return load(file)
    raw = _json(file)
    parts = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(parts, dict):
        raise UserError(f"{file}: holds no weight_map of tensor names to file names")
    require(
        all(isinstance(part, str) and Path(part).name == part for part in parts.values()),
        f"{file}: its weight_map must name files in the same folder",
    )
    tensors: Tensors = {}
    for part in sorted(set(parts.values())):
        require((folder / part).is_file(), f"{folder / part}: missing, though {file.name} names it; copy it again")
        tensors |= load(folder / part)
    return tensors


def _layout(folder: Path) -> tuple[Path, Callable[[Path], Tensors]] | None:
    for name, load in ((SAFETENSORS, _from_safetensors), (PYTORCH, _from_pytorch)):
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return path, load
    return None


def _from_safetensors(path: Path) -> Tensors:
    try:
        return {name: _float32(value) for name, value in load_file(path).items()}
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({_first_line(error)}); copy it again") from None


def _from_pytorch(path: Path) -> Tensors:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f'{path}: reading PyTorch weights needs torch: pip install "jaxode[torch]", or use a model.safetensors'
        ) from None
    try:
        # tensors only: a pickle could run any code
        found = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name: value.detach() for name, value in found.items()}
        return {
            name: (value.float() if value.is_floating_point() else value).numpy() for name, value in tensors.items()
        }
    except Exception as error:  # torch raises many kinds for a damaged file, and one for a pickle of other things
        raise UserError(f"{path}: cannot be read as PyTorch tensors alone ({_first_line(error)})") from None


def _float32(value: np.ndarray) -> np.ndarray:
    return value if np.issubdtype(value.dtype, np.integer) or value.dtype == bool else value.astype(np.float32)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
