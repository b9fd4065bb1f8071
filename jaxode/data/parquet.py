"""Texts of a Parquet file, some megabytes at a time; every fault names the file and the row or row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxode.config import UserError, require
from jaxode.data.lines import check_text
from jaxode.data.notices import notice

if TYPE_CHECKING:
    from pyarrow import DataType, RecordBatch, Scalar
    from pyarrow.parquet import ParquetFile

_BATCH_BYTES = 2**23


def check_parquet(path: Path, column: str) -> None:
    """Read the file's footer alone.

    Raises:
        UserError: the file cannot be read, is damaged, or has no such column of text.
    """
    with open_parquet(path) as file:
        _check_text(file, path, column)


def parquet_texts(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of every row; the text of an empty cell (null) is empty, and one line says how
    many there were.

    A row group is read in batches of rows, so that memory does not grow with the file.

    Raises:
        UserError: as `check_parquet`, a row group that is damaged, or a text that is none.
    """
    with open_parquet(path) as file:
        _check_text(file, path, column)
        number = empty = 0
        for where, batch in column_batches(file, path, [column]):
            for cell in batch.column(0):
                number += 1
                empty += not cell.is_valid
                yield number, text_of(cell, f"{path}: {where}, row {number}")
    if empty:
        notice(f'{path}: {empty} of {number} cells of column "{column}" are empty (null), passed over')


def open_parquet(path: Path) -> ParquetFile:
    """The file, of which the footer is read.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        # whole column chunks of a row group, some hundred megabytes, would be read at once without a buffer's size
        return ParquetFile(path, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({why}); fetch the file again") from None


def column_batches(file: ParquetFile, path: Path, columns: Sequence[str]) -> Iterator[tuple[str, RecordBatch]]:
    """Yield the row group by its name, and some megabytes of the columns of its rows.

    Raises:
        UserError: a row group that is damaged.
    """
    import pyarrow as pa

    for group in range(file.num_row_groups):
        where = f"row group {group + 1} of {file.num_row_groups}"
        try:
            for batch in file.iter_batches(_rows(file, group, columns), row_groups=[group], columns=list(columns)):
                yield where, batch
        except (pa.ArrowException, OSError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"{path}: {where} is truncated or damaged ({why}); fetch the file again") from None


def _check_text(file: ParquetFile, path: Path, column: str) -> None:
    names = file.schema_arrow.names
    require(
        column in names,
        f'{path}: has no column "{column}" (it has {", ".join(names) or "none"}); data.text_key must name '
        "the column of the text",
    )
    kind = file.schema_arrow.field(column).type
    require(
        _is_text(kind),
        f'{path}: column "{column}" is {kind}, not string; data.text_key must name the column of the text',
    )


def _is_text(kind: DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind)


def text_of(cell: Scalar, where: str) -> str:
    """The text of a cell, empty of an empty one (null).

    Raises:
        UserError: as `value_of` and `check_text`.
    """
    text = value_of(cell, where) or ""
    check_text(text, f"{where}: the text")
    return text


def value_of(cell: Scalar, where: str) -> Any:
    """A cell as Python has it.

    Raises:
        UserError: it holds text that is no UTF-8.
    """
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error}); convert it or leave the row out") from None


def _rows(file: ParquetFile, group: int, columns: Sequence[str]) -> int:
    """Rows of a batch, so that it takes some megabytes."""
    about = file.metadata.row_group(group)
    chunks = [about.column(place) for place in range(about.num_columns)]
    # a list stands below its column's name
    inside = tuple(f"{name}." for name in columns)
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema in columns or chunk.path_in_schema.startswith(inside)
    )
    return min(max(int(_BATCH_BYTES / max(size / max(about.num_rows, 1), 1)), 1), 1024)
