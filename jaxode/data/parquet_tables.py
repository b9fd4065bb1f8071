"""Labelled tables in Parquet: the columns that hold texts, numbers or lists of these, and labels by the names that the
file itself gives them. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxode.config import require
from jaxode.config.parsing import parse_json
from jaxode.data.parquet import column_batches, open_parquet, text_of, value_of

if TYPE_CHECKING:
    from pyarrow import DataType

Kind = Literal["text", "number", "list"]


def parquet_columns(path: Path) -> dict[str, Kind]:
    """What the columns hold that can be read, by their names; others are no columns here.

    Raises:
        UserError: the file cannot be read or is damaged, or two columns have one name.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    require(twice is None, f'{path}: two columns are called "{twice}"')
    return {field.name: kind for field in schema if (kind := _kind(field.type)) is not None}


def class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Of every column of numbered labels the names by number, as Hugging Face's `datasets` keeps them in the schema
    (ClassLabel, by itself or in a list); a file without such says nothing.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    with open_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}").decode())["info"]["features"]
        names = {column: _class_names(feature) for column, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {column: found for column, found in names.items() if found}


def parquet_records(path: Path, chosen: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number, from 1, and cells of every row by the names of `parquet_columns`: texts, numbers, lists of these,
    and labels by their names; None of a number that is empty (null), of a label below 0, which stands for none, and of
    columns that are not `chosen`.

    Raises:
        UserError: as `parquet_columns`, a row group that is damaged, a text that is none, or a label without a name.
    """
    columns, named = parquet_columns(path), class_names(path)
    chosen = [name for name in columns if name in chosen]
    with open_parquet(path) as file:
        number = 0
        for where, batch in column_batches(file, path, chosen):
            cells = {name: batch.column(name) for name in chosen}
            for place in range(batch.num_rows):
                number += 1
                row: dict[str, Any] = dict.fromkeys(columns)
                for name in chosen:
                    spot = f"{path}: {where}, row {number}"
                    cell = cells[name][place]
                    value = (text_of if columns[name] == "text" else value_of)(cell, spot)
                    row[name] = _named(value, named[name], f'{spot}: column "{name}"') if name in named else value
                yield number, row


def _kind(kind: DataType) -> Kind | None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list" if _kind(kind.value_type) in ("text", "number") else None
    return None


def _class_names(feature: Any) -> tuple[str, ...]:
    """Of a feature, or of the one that a list of it holds, which older versions write as a list itself."""
    if isinstance(feature, list):
        feature = feature[0]
    feature = feature.get("feature", feature)
    names = feature.get("names", ()) if feature.get("_type") == "ClassLabel" else ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def _named(value: Any, names: Sequence[str], where: str) -> Any:
    if isinstance(value, list):
        return [_named(part, names, where) for part in value]
    if not isinstance(value, int) or value < 0:
        return None if isinstance(value, int) else value
    require(value < len(names), f"{where}: label {value} has no name; the file names {len(names)}: {', '.join(names)}")
    return names[value]


def column_name(path: Path, asked: str) -> str:
    """The name of the column of a number from 1, as all columns are counted; whatever else was `asked` for stays.

    Raises:
        UserError: the column holds neither texts, numbers nor lists of these.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
    names = schema.names
    numbered = asked not in names and asked.isdecimal() and 1 <= int(asked) <= len(names)
    name = names[int(asked) - 1] if numbered else asked
    if name in names:
        kind = schema.field(name).type
        require(
            _kind(kind) is not None, f'{path}: column "{name}" is {kind}: neither texts, numbers nor lists of these'
        )
    return name


def chosen_columns(columns: Mapping[str, Kind], asked: Sequence[str], common: Collection[str]) -> set[str]:
    """Those that may be read: by their names as `asked`, by `common` names, or all of at most two."""
    return set(columns) if len(columns) <= 2 else {*asked, *common} & set(columns)
