"""All tensors of a folder: known by their headers, read one at a time into the place where they stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxode.config import UserError, require
from jaxode.interop.files import Shard, shards

FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""Types in which weights are read, by safetensors' names; PyTorch's are those of NumPy."""

EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F80_0000, "float64": 0x7FF0_0000_0000_0000}
"""Bits of the exponent: all of them are set in what is infinite or no number, and in nothing else."""

BLOCK, LINE = 512 * 1024, 64
"""Bytes that are copied at once, which fit in a processor's cache, and bytes of one line of it."""


@dataclass(frozen=True)
class StoredTensor:
    """What a header tells of a tensor."""

    name: str
    """In its file."""
    shard: Shard
    shape: tuple[int, ...]
    kind: str
    """The type as the file calls it."""

    @property
    def dtype(self) -> np.dtype | None:
        """The type of a weight; None for whole numbers, and for types of quantised weights."""
        kind = FLOATS.get(self.kind, self.kind)
        return np.dtype(kind) if kind in EXPONENTS else None


class TensorFiles(Mapping[str, StoredTensor]):
    """The tensors of a folder by name."""

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor]):
        """As `open_tensors` makes it."""
        self.folder, self._tensors = folder, dict(tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def renamed(self, name: Callable[[str], str]) -> TensorFiles:
        """The same tensors under other names.

        Raises:
            UserError: two would have the same name.
        """
        tensors: dict[str, StoredTensor] = {}
        for old, tensor in self.items():
            _add(tensors, name(old), tensor, self.folder)
        return TensorFiles(self.folder, tensors)

    def read(self, name: str, into: np.ndarray, first: int = 0) -> None:
        """Fill an array with a tensor or some of its rows, block by block, in the array's type.

        Args:
            name: of the tensor.
            into: of the tensor's shape, with as many rows as are wanted; it may be a view of a larger array, transposed
                too.
            first: row of the tensor to begin with.

        Raises:
            UserError: a damaged file, or weights that are infinite or no numbers.
        """
        tensor = self[name]
        with tensor.shard.rows(tensor.name) as rows:
            for at in _blocks(into.shape, tensor.dtype):
                block = rows(slice(first + at.start, first + at.stop) if into.ndim else at)
                _copy(_checked(block, into.dtype, tensor), into[at] if into.ndim else into)


def open_tensors(folder: Path) -> TensorFiles:
    """The tensors of a Hugging Face folder, from the headers of its files alone; see `files.shards`.

    Raises:
        UserError: no weights, a missing or damaged shard, an index that names what its shard lacks, or a tensor in two
            shards.
    """
    files, index = shards(folder)
    headers = {path.name: (shard, shard.header()) for path, shard in files.items()}
    for name, part in index.items():
        require(
            name in headers[part][1], f"{folder / part}: lacks tensor {name}, which the index names; copy both again"
        )
    tensors: dict[str, StoredTensor] = {}
    for shard, header in headers.values():
        for name, (shape, kind) in header.items():
            _add(tensors, name, StoredTensor(name, shard, shape, kind), folder)
    return TensorFiles(folder, tensors)


def same(left: StoredTensor, right: StoredTensor) -> bool:
    """Whether two tensors hold the same weights."""
    if left.shape != right.shape or None in (left.dtype, right.dtype):
        return False
    with left.shard.rows(left.name) as one, right.shard.rows(right.name) as two:
        return all(_equal(one(at), two(at)) for at in _blocks(left.shape, left.dtype))


def copy_rows(source: np.ndarray, into: np.ndarray) -> None:
    """Fill an array with another of its shape, in its own type; either may be transposed."""
    for at in _blocks(into.shape, into.dtype):
        block = source[at] if into.ndim else source
        _copy(block.astype(into.dtype, copy=False), into[at] if into.ndim else into)


def _add(tensors: dict[str, StoredTensor], name: str, tensor: StoredTensor, folder: Path) -> None:
    if name in tensors:
        places = sorted({tensors[name].shard.path.name, tensor.shard.path.name})
        raise UserError(f"{folder}: tensor {name} stands twice, in {' and '.join(places)}; remove one of them")
    tensors[name] = tensor


def _blocks(shape: tuple[int, ...], dtype: np.dtype | None) -> Iterator[slice]:
    if 0 in shape:
        return
    length = shape[0] if shape else 1
    row = int(np.prod(shape[1:])) * (8 if dtype is None else dtype.itemsize)
    step = max(1, BLOCK // row)
    yield from (slice(start, min(start + step, length)) for start in range(0, length, step))


def _checked(block: np.ndarray, dtype: np.dtype, tensor: StoredTensor) -> np.ndarray:
    """The block in another type, if every number in it is finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, by name
        cast = block.astype(dtype, copy=False)
    exponent = EXPONENTS[dtype.name]
    if int((_bits(cast) & exponent).max()) < exponent:
        return cast
    numbers = np.asarray(block, np.float64)
    what = "NaN" if np.isnan(numbers).any() else "infinite" if np.isinf(numbers).any() else f"too large for {dtype}"
    raise UserError(
        f"{tensor.shard.path}: tensor {tensor.name} holds numbers that are {what}: the file is damaged, or the "
        "training that wrote it diverged; copy it again"
    )


def _copy(block: np.ndarray, into: np.ndarray) -> None:
    block, into = _bits(block), _bits(into)
    if block.ndim != 2 or _by_rows(block) == _by_rows(into):
        into[...] = block
        return
    if not _by_rows(block):
        block, into = block.T, into.T
    # rows that lie a power of two apart would all take the same few places in the cache: a third of the speed
    width = block.shape[1]
    apart = np.empty((len(block), width + LINE // block.itemsize), block.dtype)[:, :width]
    apart[...] = block
    into[...] = apart


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return (left.dtype == right.dtype and np.array_equal(_bits(left), _bits(right))) or np.array_equal(left, right)


def _bits(array: np.ndarray) -> np.ndarray:
    """What NumPy copies and compares fastest; it calls a function for every number of type bfloat16."""
    return array.view(f"u{array.itemsize}")


def _by_rows(matrix: np.ndarray) -> bool:
    return matrix.strides[1] <= matrix.strides[0]
