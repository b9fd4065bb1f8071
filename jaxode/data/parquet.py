"""Texts of a Parquet file, some megabytes at a time; every fault names the file and the row or row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxode.config import UserError, require
from jaxode.data.lines import LARGEST
from jaxode.data.notices import notice

if TYPE_CHECKING:
    from pyarrow import DataType, Scalar
    from pyarrow.parquet import ParquetFile

_BATCH_BYTES = 2**23


def check_parquet(path: Path, column: str) -> None:
    """Read the file's footer alone.

    Raises:
        UserError: the file cannot be read, is damaged, or has no such column of text.
    """
    _open(path, column).close()


def parquet_texts(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of every row; the text of an empty cell (null) is empty, and one line says how
    many there were.

    A row group is read in batches of rows, so that memory does not grow with the file.

    Raises:
        UserError: as `check_parquet`, a row group that is damaged, or a text that is none.
    """
    import pyarrow as pa

    with _open(path, column) as file:
        number = empty = 0
        for group in range(file.num_row_groups):
            where = f"row group {group + 1} of {file.num_row_groups}"
            try:
                for batch in file.iter_batches(_rows(file, group, column), row_groups=[group], columns=[column]):
                    for cell in batch.column(0):
                        number += 1
                        empty += not cell.is_valid
                        yield number, _text(cell, f"{path}: {where}, row {number}")
            except (pa.ArrowException, OSError) as error:
                why = str(error).splitlines()[0]
                raise UserError(f"{path}: {where} is truncated or damaged ({why}); fetch the file again") from None
    if empty:
        notice(f'{path}: {empty} of {number} cells of column "{column}" are empty (null), passed over')


def _open(path: Path, column: str) -> ParquetFile:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        # whole column chunks of a row group, some hundred megabytes, would be read at once without a buffer's size
        file = ParquetFile(path, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({why}); fetch the file again") from None
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
    return file


def _is_text(kind: DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind)


def _text(cell: Scalar, where: str) -> str:
    try:
        text = cell.as_py() or ""
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error}); convert it or leave the row out") from None
    require(
        len(text) <= LARGEST,
        f"{where}: longer than {LARGEST >> 20} MiB, more than a document may hold: divide it, or leave it out",
    )
    require("\0" not in text, f"{where}: the text holds NUL characters; take them out, or leave the row out")
    return text


def _rows(file: ParquetFile, group: int, column: str) -> int:
    """Rows of a batch, so that it takes some megabytes."""
    about = file.metadata.row_group(group)
    place = next(i for i in range(about.num_columns) if about.column(i).path_in_schema == column)
    row = about.column(place).total_uncompressed_size / max(about.num_rows, 1)
    return min(max(int(_BATCH_BYTES / max(row, 1)), 1), 1024)
