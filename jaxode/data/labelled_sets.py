"""Labelled texts of a set that TFDS knows by name (glue/sst2, ag_news_subset, ..), and sentences of labelled words
(conll2003, ..), as tables. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxode.config import UserError, require
from jaxode.data.columns import Columns
from jaxode.data.registered import registered_set, unreadable
from jaxode.data.tables import Table, check_no_header, table_of
from jaxode.data.tagged import tagged_of

VALIDATION = ("validation", "validation_matched", "dev", "test")
"""Splits that are validated on, the first of them that has labels."""

INSTEAD = "name a table (.tsv, .csv, .jsonl, .parquet)"


def labelled_set(
    name: str, columns: Columns, cache: Path, splits: tuple[str, ...], field: str, by_word: bool = False
) -> Table | None:
    """The first of `splits` that the set has with labels, as a table; its classes go by their names.

    Args:
        name: of the set.
        columns: names of its features that hold texts and labels.
        cache: as of `registered_set`.
        splits: names, in order.
        field: of the settings, for errors.
        by_word: whether an example is a sequence of words with one of labels, and not a text with one.

    Raises:
        UserError: it cannot be prepared or read, its features are no texts and labels, or an example has no label.
    """
    check_no_header(name, columns)
    builder = registered_set(name, cache, field, "name a file (.conll, .jsonl)" if by_word else INSTEAD)
    features = builder.info.features
    named = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    # what is neither text nor one number or label, or a sequence of such, is no column
    kinds = {key: kind for key, kind in named.items() if (_is_sequence(kind) if by_word else _is_column(kind))}
    what = "words with labels" if by_word else "texts with labels"
    require(bool(kinds), f'{field} = "{name}": has no {what} (features: {", ".join(named) or "none"})')
    for split in splits:
        if split not in builder.info.splits or not builder.info.splits[split].num_examples:
            continue
        try:
            source = builder.as_data_source(split)  # pyright: ignore[reportCallIssue]
        except Exception as error:
            raise unreadable(name, field, Path(str(builder.data_path)), error) from None
        called = f"{name}, {split}"
        records = _records(called, source, kinds)
        if by_word:
            table = tagged_of(called, _filled(records), columns, labelled=True, unit="example", secret=True)
        else:
            table = table_of(called, records, columns, labelled=True, unit="example")
        unlabelled = sum(example.label is None for example in table.examples)
        if unlabelled == len(table.examples):  # a test split whose labels are kept secret
            continue
        if unlabelled:
            first = next(n for n, example in zip(table.names, table.examples, strict=True) if example.label is None)
            raise UserError(f"{first} has no label, as {unlabelled} of {len(table.examples)} have none")
        return table
    return None


def _is_column(kind: Any) -> bool:
    if isinstance(kind, tfds.features.Text | tfds.features.ClassLabel):
        return True
    return getattr(kind, "shape", None) == () and np.issubdtype(kind.np_dtype, np.number)


def _is_sequence(kind: Any) -> bool:
    inner = kind.feature if isinstance(kind, tfds.features.Sequence) else None
    return isinstance(inner, tfds.features.Text | tfds.features.ClassLabel)


def _records(called: str, source: Any, kinds: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, example in enumerate(source, start=1):
        try:
            yield number, {name: _value(example[name], kind) for name, kind in kinds.items()}
        except UnicodeDecodeError as error:
            raise UserError(f"{called}: example {number}: not UTF-8 text ({error}); name a file without it") from None


def _filled(records: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Without sentences that hold no word, which nobody can take out of a set."""
    return ((number, record) for number, record in records if any(value != [] for value in record.values()))


def _value(value: Any, kind: Any) -> Any:
    if isinstance(kind, tfds.features.Sequence):
        values = [_value(one, kind.feature) for one in value]
        return None if None in values else values
    if isinstance(kind, tfds.features.Text):
        return value.decode() if isinstance(value, bytes) else str(value)
    if isinstance(kind, tfds.features.ClassLabel):
        return kind.int2str(int(value)) if int(value) >= 0 else None
    return np.asarray(value).item()
