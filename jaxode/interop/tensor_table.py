"""A family's names for the tensors of a model, against jaxode's parameters: one list, read both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, reduce
from itertools import accumulate, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxode.config import UserError, require
from jaxode.interop.room import check_room
from jaxode.interop.tensor_files import LINE, StoredTensor, TensorFiles, copy_rows, same
from jaxode.model.parameters import Parameters, check_fit

FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Rows:
    """Rows of one of their tensors from `first` on, as many as our part has."""

    name: str
    first: int = 0


@dataclass(frozen=True)
class Pair:
    """One parameter of ours, and the tensors of theirs that it is made of, one after the other along their rows.

    Their rows are the first axis of their tensors: the outputs of a linear layer, which PyTorch keeps as [out, in].
    Where one of theirs is cut into several of ours, each of these pairs names its `Rows`.
    """

    ours: str
    theirs: tuple[str | Rows, ...]
    transpose: bool = False
    """Ours is [in, out], as of a linear layer's kernel."""
    rows: tuple[int, ...] = ()
    """How many rows each of theirs gives; all give as many where this is empty."""
    shape: tuple[int, ...] | None = None
    """Of each of theirs, where ours holds the same numbers in another shape."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of their tensors."""
        return tuple(part if isinstance(part, str) else part.name for part in self.theirs)

    def parts(self, ours: np.ndarray) -> Iterator[tuple[Rows, np.ndarray]]:
        """Views of our parameter that look like their tensors."""
        names = [Rows(name) if isinstance(name, str) else name for name in self.theirs]
        laid = ours.T if self.transpose else ours
        if len(names) == 1:
            sections = [laid]
        else:
            rows = self.rows or (len(laid) // len(names),) * len(names)
            assert len(rows) == len(names), f"{self.ours}: {len(rows)} numbers of rows for {len(names)} tensors"
            assert sum(rows) == len(laid), f"{self.ours}: {rows} rows of theirs for {len(laid)} of ours"
            sections = [laid[start:stop] for start, stop in pairwise(accumulate(rows, initial=0))]
        for name, section in zip(names, sections, strict=True):
            view = section if self.shape is None else section.reshape(self.shape)
            # a copy would be filled in vain
            assert np.may_share_memory(view, ours), f"{self.ours}: no view of shape {self.shape}"
            yield name, view


@dataclass(frozen=True)
class Copy:
    """A tensor that holds the same numbers as another one: a tied matrix that a file may hold twice."""

    name: str
    of: str
    written: bool = False
    """Whether the family's files hold both."""
    field: str = "tie_word_embeddings"
    """Of config.json, which ties them; empty where the family always does."""


@dataclass(frozen=True)
class TensorTable:
    """All tensors of a model."""

    pairs: tuple[Pair, ...]
    copies: tuple[Copy, ...] = ()
    ignored: tuple[str, ...] = ()
    """Patterns of names that are no weights and are left out, as in `*.rotary_emb.inv_freq`."""

    def renamed(self, name: Callable[[str], str]) -> TensorTable:
        """The same table with other names of theirs; patterns stay."""

        def theirs(part: str | Rows) -> Rows:
            return Rows(name(part)) if isinstance(part, str) else replace(part, name=name(part.name))

        return TensorTable(
            tuple(replace(pair, theirs=tuple(map(theirs, pair.theirs))) for pair in self.pairs),
            tuple(replace(copy, name=name(copy.name), of=name(copy.of)) for copy in self.copies),
            self.ignored,
        )

    def shapes(self, ours: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of their tensors, written copies included, from those of our parameters or from these."""
        names = [pair.ours for pair in self.pairs]
        assert len(set(names)) == len(names), f"the table names {max(names, key=names.count)} twice"
        assert set(names) == set(ours), f"the table and the model differ in {sorted(set(names) ^ set(ours))[:4]}"
        sketches = {name: _sketch(value) for name, value in ours.items()}
        shapes = {}
        for name in self._pairs:
            sections = self._sections(name, sketches)
            shapes[name] = jax.ShapeDtypeStruct(_joined(name, sections), sections[0][1].dtype)
        return shapes | {copy.name: shapes[copy.of] for copy in self.copies if copy.written}

    def types(self, files: TensorFiles, dtype: str | None = None) -> dict[str, np.dtype]:
        """Of our parameters when they are read: `dtype`, or where that is None the one of their tensors in the files.

        JAX has no float64 by default: it becomes float32.
        """
        files = self._without_copies(files)

        def stored(pair: Pair) -> np.dtype:
            kinds = [files[name].dtype or FLOAT32 for name in pair.names if name in files] or [FLOAT32]
            kind = reduce(jnp.promote_types, kinds)
            return FLOAT32 if kind == np.float64 else np.dtype(kind)

        return {pair.ours: stored(pair) if dtype is None else np.dtype(dtype) for pair in self.pairs}

    def read(
        self,
        files: TensorFiles,
        shapes: Mapping[str, Any],
        *,
        dtype: str | None = None,
        remedy: str = "the weights do not fit config.json",
        fields: Mapping[str, Any] | None = None,
    ) -> Parameters:
        """Our parameters, one after the other, each written where it stays.

        Args:
            files: of the model.
            shapes: of our parameters, as `split` gives them of an abstract model.
            dtype: "float32" or "bfloat16" for all of them, or None for their own type.
            remedy: ends the message on what does not fit.
            fields: of config.json, to name the one that a wrong shape contradicts.

        Raises:
            UserError: a tensor that is missing, unknown, of another shape, quantised, or NaN; copies that differ; more
                than the memory holds. All but the numbers is told before anything is allocated.
        """
        originals = self._without_copies(files)
        wanted, source = self.shapes(shapes), str(files.folder)
        for copy in self.copies:
            wanted.pop(copy.name, None)
        _check_stored([originals[name] for name in wanted if name in originals])
        _check_stored([files[copy.name] for copy in self.copies if copy.name in files])
        _check_shapes(wanted, originals, source, fields or {})
        check_fit(wanted, originals, source, remedy)
        types = self.types(files, dtype)
        check_room({name: jax.ShapeDtypeStruct(shapes[name].shape, kind) for name, kind in types.items()}, source)
        for copy in self.copies:
            if copy.name in files and not same(files[copy.name], originals[copy.of]):
                tie = f"config.json ties them; set {copy.field} to false if both were trained, or"
                raise UserError(
                    f"{source}: tensors {copy.name} and {copy.of} differ, though "
                    f"{tie if copy.field else 'models of this type tie them;'} copy the weights again"
                )
        return {
            pair.ours: _parameter(pair, originals, shapes[pair.ours].shape, types[pair.ours]) for pair in self.pairs
        }

    def tensor(self, name: str, params: Mapping[str, Any]) -> np.ndarray:
        """One of their tensors out of our parameters, in the parameters' type."""
        name = next((copy.of for copy in self.copies if copy.name == name), name)
        sections = self._sections(name, params)
        tensor = np.empty(_joined(name, sections), sections[0][1].dtype)
        for first, view in sections:
            copy_rows(view, tensor[first : first + len(view)] if view.ndim else tensor)
        return tensor

    def _sections(self, name: str, params: Mapping[str, Any]) -> list[tuple[int, np.ndarray]]:
        """The views of our parameters that make up one of theirs, by first row."""
        parts = (part for pair in self._pairs[name] for part in pair.parts(np.asarray(params[pair.ours])))
        return [(part.first, view) for part, view in parts if part.name == name]

    @cached_property
    def _pairs(self) -> dict[str, list[Pair]]:
        """The pairs that each of theirs occurs in."""
        pairs: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            for name in dict.fromkeys(pair.names):
                pairs.setdefault(name, []).append(pair)
        return pairs

    def _without_copies(self, files: TensorFiles) -> TensorFiles:
        """The tensors that are read: a copy stands in for what it is a copy of where that is away."""
        copies = {copy.name for copy in self.copies}
        tensors = {
            name: tensor
            for name, tensor in files.items()
            if name not in copies and (name in self._pairs or not self._ignores(name))
        }
        for copy in self.copies:
            if copy.name in files and copy.of not in tensors:
                tensors[copy.of] = files[copy.name]
        return TensorFiles(files.folder, tensors)

    def _ignores(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.ignored)


def kernel(ours: str, *theirs: str | Rows, rows: tuple[int, ...] = ()) -> Pair:
    """The kernel of a linear layer `ours`, [in, out], and the weights [out, in] of one or several of theirs."""
    return Pair(f"{ours}.kernel", _ending(theirs, "weight"), transpose=True, rows=rows)


def bias(ours: str, *theirs: str | Rows, rows: tuple[int, ...] = ()) -> Pair:
    """The bias of a layer, and those of one or several of theirs."""
    return Pair(f"{ours}.bias", _ending(theirs, "bias"), rows=rows)


def scale(ours: str, theirs: str) -> Pair:
    """The factors of a norm."""
    return Pair(f"{ours}.scale", _ending((theirs,), "weight"))


def embedding(ours: str, theirs: str) -> Pair:
    """A table of vectors, [entries, width] on both sides."""
    return Pair(f"{ours}.embedding", _ending((theirs,), "weight"))


def _ending(theirs: tuple[str | Rows, ...], ending: str) -> tuple[Rows, ...]:
    parts = [Rows(part) if isinstance(part, str) else part for part in theirs]
    return tuple(Rows(f"{part.name}.{ending}", part.first) for part in parts)


def _joined(name: str, sections: list[tuple[int, np.ndarray]]) -> tuple[int, ...]:
    """The shape of a tensor that consists of these sections."""
    shape = sections[0][1].shape
    if not shape:
        return shape
    rows = sum(len(view) for _, view in sections)
    assert rows == max(first + len(view) for first, view in sections), f"the table leaves rows of {name} out"
    return (rows, *shape[1:])


def _sketch(ours: Any) -> np.ndarray:
    """An array of this shape and type that takes no memory."""
    return np.broadcast_to(np.empty((), ours.dtype), ours.shape)


def _parameter(pair: Pair, files: TensorFiles, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    # JAX takes an array over without a copy where it begins at a line of the cache
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    array = memory[start : start + size].view(dtype).reshape(shape)
    for part, view in pair.parts(array):
        files.read(part.name, view, part.first)
    return jax.device_put(array)


def _check_stored(tensors: Iterable[StoredTensor]) -> None:
    for tensor in tensors:
        require(
            tensor.dtype is not None,
            f"{tensor.shard.path}: tensor {tensor.name} is stored as {tensor.kind}: quantised weights are not read; "
            "use a release of the model in bfloat16, float16 or float32",
        )


def _check_shapes(wanted: Mapping[str, Any], files: TensorFiles, source: str, fields: Mapping[str, Any]) -> None:
    """Refuse a shape that contradicts a field of config.json, which is the field that holds the number needed."""
    for name in sorted(wanted.keys() & files.keys()):
        need, have = tuple(wanted[name].shape), files[name].shape
        sizes = [size for size, other in zip(need, have, strict=False) if size != other]
        named = [key for key, value in fields.items() if type(value) is int and value in sizes]
        if len(need) == len(have) and named:
            contradicted = ", ".join(f"{key} = {fields[key]}" for key in named)
            raise UserError(
                f"{source}: tensor {name} has shape {list(have)}, the model needs {list(need)}; config.json says "
                f"{contradicted}: one of them is of another model"
            )
