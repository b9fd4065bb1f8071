"""A folder as Hugging Face's hub holds it: config.json, and safetensors whole or in shards with their index."""

import json
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

TYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def write_folder(
    path, config: dict, tensors, *, shards: int = 1, dtype: Literal["float32", "bfloat16"] = "float32"
) -> Path:
    """Write `tensors` in `dtype`, cut in their order into as many files as `shards` says, and return the folder."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    arrays = {name: np.ascontiguousarray(value.astype(TYPES[dtype])) for name, value in tensors.items()}
    if shards == 1:
        save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
        return path
    weight_map = {}
    for i, names in enumerate(np.array_split(list(arrays), shards), start=1):
        file = f"model-{i:05d}-of-{shards:05d}.safetensors"
        save_file({name: arrays[name] for name in names.tolist()}, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names.tolist(), file)
    total = sum(value.nbytes for value in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    return path
