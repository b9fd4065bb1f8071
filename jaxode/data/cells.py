"""From tab- and comma-separated tables to the cells of their rows; every fault names the file and the line. Imports no
jax.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxode.config import UserError, require
from jaxode.data import documents
from jaxode.data.columns import LABELS, PAIRS, TEXTS, Columns, Switch
from jaxode.data.lines import LARGEST, too_long
from jaxode.data.notices import notice


def named_cells(path: Path, kind: str, columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells of every row, by the names of the header or by number."""
    names: list[str] | None = None
    for line, cells in _cells(path, kind, columns.quotes):
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            _check_division(f"{path}: line {line}", cells, kind, columns)
            if _is_header(cells, columns):
                names = [cell.strip() for cell in cells]
                if columns.header == "auto" and columns.are_numbers:
                    shown = ", ".join(names)[:80]
                    notice(f"{path}: line {line} is read as a header ({shown}); header no if it is none")
                twice = next((name for name in names if names.count(name) > 1), None)
                require(twice is None, f'{path}: line {line}: two columns are called "{twice}"')
                continue
            names = [str(number) for number in range(1, len(cells) + 1)]
        hint = "a tab" if kind == ".tsv" else "a comma or a quotation mark"
        require(
            len(cells) == len(names),
            f"{path}: line {line} has {len(cells)} cells, the first line {len(names)}: {hint} too few or too many",
        )
        yield line, dict(zip(names, cells, strict=True))


def _check_division(where: str, cells: Sequence[str], kind: str, columns: Columns) -> None:
    """Refuse a table whose lines or cells are divided by something else: its first line would be one cell."""
    require(
        kind != ".tsv" or "\r" not in "".join(cells),
        f"{where} holds carriage returns: lines end with line feeds; convert the file",
    )
    known = {columns.text, columns.pair, columns.label, *TEXTS, *PAIRS, *LABELS}
    for mark in ";,\t|" if len(cells) == 1 else "":
        # two names in one cell are no chance
        require(
            len(known & {part.strip() for part in cells[0].split(mark)}) < 2,
            f'{where} is one cell, "{cells[0][:40]}": cells are divided by commas in .csv, by tabs in .tsv, and not by '
            f"{mark!r}",
        )


def _is_header(cells: Sequence[str], columns: Columns) -> bool:
    if columns.header != "auto":
        return columns.header == "yes"
    asked = [name for name in (columns.text, columns.pair, columns.label) if name and not name.isdigit()]
    found = [cell.strip() for cell in cells]
    return bool(asked) or any(name in found for name in (*TEXTS, *PAIRS, *LABELS))


def _cells(path: Path, kind: str, quotes: Switch) -> Iterator[tuple[int, list[str]]]:
    quoted = quotes == "yes" or (quotes == "auto" and kind == ".csv")
    if kind == ".tsv" and not quoted:
        for number, line in documents.numbered_lines(path, table=True):
            yield number, line.split("\t")
        return
    text = io.StringIO(documents.read_text(path), newline="")
    reader = csv.reader(text, delimiter="\t" if kind == ".tsv" else ",", strict=True)
    begins = 1
    # 131,072 characters by itself, and it has no setting of a reader's own
    usual = csv.field_size_limit(LARGEST)
    try:
        for cells in reader:
            yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        require("field limit" not in str(error), too_long(f"{path}: line {reader.line_num}: a cell"))
        raise UserError(f"{path}: line {reader.line_num}: {error}; see its quotation marks") from None
    finally:
        csv.field_size_limit(usual)
