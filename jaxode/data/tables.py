"""From a labelled file to its examples: tab- and comma-separated tables, JSON lines, and Parquet. Imports no jax.

Every fault names the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxode.config import require
from jaxode.data import documents
from jaxode.data.cells import named_cells
from jaxode.data.columns import LABELS, PAIRS, TEXTS, Columns
from jaxode.data.lines import check_text
from jaxode.data.notices import notice
from jaxode.data.parquet_tables import chosen_columns, class_names, column_name, parquet_columns, parquet_records


@dataclass(frozen=True)
class Example:
    """A text, or a pair, and what was written beside it."""

    text: str
    pair: str | None
    label: Any
    """As the file has it: a text, or of JSON lines any value; None where there is no column of labels."""
    line: int


@dataclass(frozen=True)
class Table:
    """The examples of a file, in its order; lines without anything are passed over."""

    file: str
    examples: tuple[Example, ...]
    unit: str = "line"
    """What its rows are called."""
    classes: tuple[str, ...] = ()
    """Names of labels in the order of the numbers that the file itself has for them; none where it has no such."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What errors call the examples."""
        return tuple(f"{self.file}: {self.unit} {example.line}" for example in self.examples)

    @property
    def paired(self) -> bool:
        """Whether every example is a pair of texts."""
        return self.examples[0].pair is not None


def is_table(path: Path | str) -> bool:
    """Whether a file's name says that it is a table with columns, or lines of JSON with fields."""
    return documents.suffix(Path(path)) in (".tsv", ".csv", *documents.JSON_LINES, documents.PARQUET)


def read_table(file: str, columns: Columns, *, labelled: bool) -> Table:
    """The examples of a file.

    Args:
        file: a table (.tsv, .csv) or JSON lines (.jsonl, .ndjson), which may end in .gz or .xz; or Parquet.
        columns: where texts and labels stand.
        labelled: whether there must be labels; else a column of them is read only where it is named.

    Raises:
        UserError: what cannot be read, is no UTF-8 or no table, a column that is not there, a row of another number of
            cells, an empty text, or nothing at all.
    """
    path = Path(file).expanduser()
    kind = documents.suffix(path)
    require(
        is_table(path), f"{file}: is no table by its name; labelled texts are .tsv, .csv, .jsonl, .ndjson or .parquet"
    )
    if kind == documents.PARQUET:
        columns, records, classes = labelled_records(file, columns, (*TEXTS, *PAIRS, *LABELS))
        return table_of(file, records, columns, labelled=labelled, unit="row", classes=classes)
    json_lines = kind in (".jsonl", ".ndjson")
    if json_lines:
        check_no_header(file, columns)
    rows = documents.json_records(path) if json_lines else named_cells(path, kind, columns)
    table = table_of(file, rows, columns, labelled=labelled)
    if kind == ".tsv" and columns.quotes == "auto":
        _tell_quotes(table)
    return table


def _tell_quotes(table: Table) -> None:
    """Of texts that look as if their quotation marks were none: all of them stand in some, or hold doubled ones."""
    inside = [one.text[1:-1] for one in table.examples if len(one.text) > 1 and one.text[0] == one.text[-1] == '"']
    if len(inside) == len(table.examples) or any('""' in text for text in inside):
        notice(
            f"{table.file}: {len(inside)} of {len(table.examples)} texts stand in quotation marks, which are text in "
            ".tsv; quotes yes (data.quotes, --quotes) if they are none"
        )


def table_of(
    file: str,
    rows: Iterable[tuple[int, Mapping[str, Any] | None]],
    columns: Columns,
    *,
    labelled: bool,
    unit: str = "line",
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> Table:
    """Examples out of rows by the names of their fields; arguments and refusals as of `read_table`.

    Args:
        file: what the rows are called.
        rows: their numbers, and what they hold; None is passed over.
        columns: where texts and labels stand.
        labelled: whether there must be labels.
        unit: what a row is.
        classes: of fields whose labels have numbers of their own, the names by number.
    """
    fields = None
    examples = []
    for line, row in rows:
        if row is None:
            continue
        fields = fields or _Fields.of(file, f"{unit} {line}", row, columns, labelled)
        examples.append(fields.example(f"{file}: {unit} {line}", line, row))
    require(bool(examples) and fields is not None, f"{file}: holds no example; give one a {unit}")
    assert fields is not None
    if columns.header == "auto" and fields.text.isdecimal():
        _check_first(file, examples)
    if (columns.text, columns.pair, columns.label) == ("", "", ""):
        notice(f"{file}: {fields}")
    return Table(file, tuple(examples), unit, (classes or {}).get(fields.label or "", ()))


def labelled_records(
    file: str, columns: Columns, common: Sequence[str]
) -> tuple[Columns, Iterator[tuple[int, dict[str, Any]]], dict[str, tuple[str, ...]]]:
    """The columns of Parquet that are named, numbers as names, its rows, and the names of labels by the columns that
    have some.

    Args:
        file: its path.
        columns: those that are named; not that there is a header.
        common: names of others that may be read.

    Raises:
        UserError: it cannot be read, is damaged, or stands in an archive; a column that holds something else.
    """
    path = Path(file).expanduser()
    documents.text_format(path)  # refuses archives
    check_no_header(file, columns)
    readable = parquet_columns(path)
    text, pair, label = (name and column_name(path, name) for name in (columns.text, columns.pair, columns.label))
    chosen = chosen_columns(readable, (text, pair, label), common)
    return Columns(text, pair, label), parquet_records(path, chosen), class_names(path)


def check_no_header(file: str, columns: Columns) -> None:
    """Refuse a header, and quotation marks, of what names its columns itself."""
    require(columns.header == "auto", f"{file}: names its columns itself; leave the header out (data.header, --header)")
    require(
        columns.quotes == "auto",
        f"{file}: has no cells that stand in quotation marks; leave them out (data.quotes, --quotes)",
    )


def has_field(path: Path, names: Sequence[str]) -> bool:
    """Whether lines of JSON or the rows of Parquet have a field of one of these names; tables are not looked into."""
    if documents.suffix(path) == documents.PARQUET:
        return not parquet_columns(path).keys().isdisjoint(names)
    if documents.suffix(path) not in documents.JSON_LINES:
        return False
    return any(name in record for _, record in documents.json_records(path) if record for name in names)


def _check_first(file: str, examples: Sequence[Example]) -> None:
    """A header without a common name looks like an example whose label is no other one's."""
    first, *others = (example.label for example in examples)
    require(
        first in others or len(set(others)) == len(others),
        f'{file}: line {examples[0].line}: "{first}" is the label of no other line; is it a header? Say so with '
        "--header yes or no (data.header)",
    )


@dataclass(frozen=True)
class _Fields:
    """Names of the fields that are read; those of a table without a header are numbers."""

    text: str
    pair: str | None
    label: str | None

    def __str__(self) -> str:
        """What is read, for a note."""
        pair = "" if self.pair is None else f' and "{self.pair}"'
        label = "" if self.label is None else f', labels in "{self.label}"'
        return f'texts in column "{self.text}"{pair}{label}'

    @classmethod
    def of(cls, file: str, line: str, row: Mapping[str, Any], columns: Columns, labelled: bool) -> _Fields:
        there = f"{file}: it has the columns {', '.join(row)}" if row else f"{file}: {line} has no column"
        if row and columns.header == "auto" and all(name.isdecimal() for name in row):
            there += " (no header was seen in its first line; --header yes if it is one)"

        def find(what: str, given: str, common: Sequence[str]) -> str | None:
            if given:
                # the columns of a header have numbers, too
                if given not in row and given.isdecimal() and 1 <= int(given) <= len(row):
                    return list(row)[int(given) - 1]
                require(given in row, f"{there}, and none that is called {given} (data.{what}, --{what})")
                return given
            return next((name for name in common if name in row), None)

        several = [name for name in TEXTS if name in row]
        require(
            bool(columns.text) or len(several) < 2,
            f"{there}: {' and '.join(several)} may hold the texts; name one, and the other as the second of a "
            "pair if it is one (data.text, data.pair; --text, --pair)",
        )
        text = find("text", columns.text, TEXTS)
        label = find("label", columns.label, LABELS) if labelled or columns.label else None
        # a column of texts by itself needs no name
        if text is None and len(row) == 1 + (label is not None):
            text = next(name for name in row if name != label)
        require(text is not None, f"{there}: which holds the texts? Name it, or its number from 1 (data.text, --text)")
        require(
            not labelled or label is not None,
            f"{there}: which holds the labels? Name it, or its number from 1 (data.label, --label)",
        )
        assert text is not None
        pair = find("pair", columns.pair, [name for name in PAIRS if name != text])
        chosen = [name for name in (text, pair, label) if name is not None]
        require(len(set(chosen)) == len(chosen), f"{file}: one column for two things: {', '.join(chosen)}")
        return cls(text, pair, label)

    def example(self, where: str, line: int, row: Mapping[str, Any]) -> Example:
        def text(name: str) -> str:
            value = row.get(name)
            require(
                isinstance(value, str),
                f'{where}: field "{name}" is {"missing" if value is None else type(value).__name__}, not a text',
            )
            assert isinstance(value, str)
            check_text(value, f'{where}: field "{name}"')
            require(bool(value.strip()), f'{where}: the text in "{name}" is empty; remove it')
            return value

        second = next((name for name in PAIRS if name in row), None)
        require(
            self.pair is not None or second is None or second in (self.text, self.label),
            f'{where} has a second text, "{second}", and the lines before it none',
        )
        label = None
        if self.label is not None:
            require(self.label in row, f'{where} lacks the field "{self.label}" of labels')
            label = row[self.label]
            for part in label if isinstance(label, list) else [label]:
                if isinstance(part, str):
                    check_text(part, f"{where}: its label")
        return Example(text(self.text), None if self.pair is None else text(self.pair), label, line)
