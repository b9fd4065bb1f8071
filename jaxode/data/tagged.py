"""From a file of labelled words to its sentences, and from these to rows. Imports no jax.

A sentence is an `Example` whose text is its words, parted by single spaces, and whose label is a tuple, one a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxode.config import require
from jaxode.data import documents
from jaxode.data.columns import Columns
from jaxode.data.identity import IdentityCounter
from jaxode.data.lines import check_text
from jaxode.data.notices import notice
from jaxode.data.parquet_tables import parquet_columns
from jaxode.data.stats import SplitStats
from jaxode.data.tables import Example, Table, labelled_records
from jaxode.data.targets import Target, label_name
from jaxode.data.tokenizers import Frame, Tokenizer
from jaxode.data.word_lines import TAGS, WORD_A_LINE, WORDS, word_lines


def read_tagged(file: str, columns: Columns, *, labelled: bool) -> Table:
    """The sentences of a file.

    Lines of JSON (.jsonl, .ndjson) and rows of Parquet hold a list of words and one of labels. Any other file has a
    word a line, with its label behind it, as `word_lines` reads it. Where no labels are read, a file whose name does
    not say so (`WORD_A_LINE`: .conll, .conllu, .bio, .iob, .tsv) has a sentence a line, and no columns.

    Args:
        file: may end in .gz or .xz.
        columns: names of the lists, or numbers of the columns from 1.
        labelled: whether labels are read.

    Raises:
        UserError: what cannot be read, is no UTF-8, lacks a list or a column, a sentence with another number of labels
            than words, or nothing at all.
    """
    path = Path(file).expanduser()
    _check_columns(file, columns)
    require(
        documents.suffix(path) != ".csv",
        f"{file}: labels of words are read from JSON lines (.jsonl) and from a word a line (.conll, .tsv): a comma may "
        "be a word",
    )
    if documents.suffix(path) == documents.PARQUET:
        columns, records, classes = labelled_records(file, columns, (*WORDS, *TAGS))
        return tagged_of(file, records, columns, labelled=labelled, unit="row", classes=classes)
    if documents.suffix(path) in (".jsonl", ".ndjson"):
        return tagged_of(file, documents.json_records(path), columns, labelled=labelled)
    if labelled or documents.suffix(path) in WORD_A_LINE:
        examples = tuple(word_lines(file, columns, labelled=labelled))
    else:
        named = next((what for what in ("text", "label") if getattr(columns, what)), "")
        require(
            not named,
            f"{file}: has a sentence a line, and no column {getattr(columns, named or 'text')} (data.{named}, "
            f"--{named}): leave it out, or name the file as one with a word a line: {', '.join(WORD_A_LINE)}",
        )
        examples = tuple(
            Example(" ".join(line.split()), None, None, number)
            for number, line in documents.numbered_lines(path)
            if line.strip()
        )
    require(bool(examples), f"{file}: holds no sentence; give words with labels")
    return Table(file, examples)


def has_tags(file: str) -> bool:
    """Whether a file says by its name, or by lists of a common name in its first line of JSON or among the columns of
    Parquet, that words have labels.

    Raises:
        UserError: JSON lines or Parquet that cannot be read.
    """
    path = Path(file).expanduser()
    if documents.suffix(path) == documents.PARQUET:
        return any(kind == "list" for name, kind in parquet_columns(path).items() if name in TAGS)
    if documents.suffix(path) not in (".jsonl", ".ndjson"):
        return documents.suffix(path) in WORD_A_LINE
    first = next((record for _, record in documents.json_records(path) if record), {})
    return any(isinstance(first.get(name), list) for name in TAGS)


def tagged_of(
    file: str,
    rows: Iterable[tuple[int, Mapping[str, Any] | None]],
    columns: Columns,
    *,
    labelled: bool,
    unit: str = "line",
    secret: bool = False,
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> Table:
    """Sentences out of rows by the names of their lists; refusals as of `read_tagged`.

    Args:
        file: what the rows are called.
        rows: their numbers, and what they hold; None is passed over.
        columns: names of the lists.
        labelled: whether labels are read.
        unit: what a row is.
        secret: whether the labels may be None, as those of a test split are.
        classes: of lists whose labels have numbers of their own, the names by number.
    """
    _check_columns(file, columns)
    examples, fields = [], []
    for line, record in rows:
        if record is None:
            continue
        name = f"{file}: {unit} {line}"
        fields = [_field(record, name, "text", columns.text, WORDS)]
        words = record[fields[0]]
        if isinstance(words, str) and not labelled:
            words = words.split()
        require(
            isinstance(words, list) and bool(words) and all(isinstance(word, str) for word in words),
            f"{name}: its words are no list of texts",
        )
        check_text(" ".join(words), f"{name}: its text")
        bad = next((word for word in words if not word or word.split() != [word]), None)
        require(bad is None, f"{name}: the word {bad!r} is empty or holds white space; words are parted already")
        tags = None
        if labelled:
            fields.append(_field(record, name, "label", columns.label, TAGS))
            tags = record[fields[1]]
        if labelled and (tags is not None or not secret):
            require(
                isinstance(tags, list) and len(tags) == len(words),
                f"{name} has {len(words)} words and {len(tags) if isinstance(tags, list) else 'no list of'} labels; "
                "give one a word",
            )
            tags = tuple(label_name(tag, name) for tag in tags or ())
            check_text(" ".join(tags), f"{name}: a label")
        examples.append(Example(" ".join(words), None, tags, line))
    require(bool(examples), f"{file}: holds no sentence; give words with labels")
    if labelled and (columns.text, columns.label) == ("", ""):
        notice(f'{file}: words in "{fields[0]}", labels in "{fields[1]}"')
    return Table(file, tuple(examples), unit, (classes or {}).get(fields[-1], ()))


def _check_columns(file: str, columns: Columns) -> None:
    require(
        (columns.pair, columns.header, columns.quotes) == ("", "auto", "auto"),
        f"{file}: words with labels have neither pairs, a header nor quotation marks (data.pair, data.header, "
        "data.quotes; --pair, --header, --quotes); leave them out",
    )


def _field(record: Any, name: str, what: str, given: str, common: Sequence[str]) -> str:
    key = given or next((one for one in common if one in record), "")
    wrong = f", and none that is called {given}; name one" if given else f": which holds the {what}s? Name it"
    require(key in record, f"{name} has the fields {', '.join(record) or 'none'}{wrong} (data.{what}, --{what})")
    return key


def word_tokens(tokenizer: Tokenizer, texts: Sequence[str], names: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Token ids of sentences, and of every word the place of its first token.

    Args:
        tokenizer: of the model.
        texts: words parted by single spaces.
        names: what errors call them.

    Raises:
        UserError: a word without a token of its own.
    """
    found = []
    for text, name, (ids, spans) in zip(texts, names, tokenizer.encode_spans(texts), strict=True):
        firsts, begin, place = [], 0, -1
        for word in text.split(" "):
            end = begin + len(word)
            place = next((i for i, (a, b) in enumerate(spans) if i > place and b > begin and a < end), -1)
            require(
                place >= 0,
                f"{name}: the word {word!r} has no token of its own in tokenizer {tokenizer.name}: remove the sentence",
            )
            firsts.append(place)
            begin = end + 1
        found.append((ids, firsts))
    return found


def tagged_rows(
    table: Table,
    targets: Sequence[Target],
    weights: np.ndarray,
    tokenizer: Tokenizer,
    frame: Frame,
    length: int,
    identity: IdentityCounter,
) -> tuple[list[Mapping[str, Any]], SplitStats]:
    """Sentences in rows: of each word its label stands at its first token, and weighs what `weights` says of it.

    Raises:
        UserError: no room within the frame, or a word without a token of its own.
    """
    before, after = tokenizer.around(frame)
    room = length - len(before) - len(after)
    require(room > 0, f"model.length = {length}: {length - room} tokens stand around every text")
    rows, cut, tokens, characters, unknown = [], 0, 0, 0, 0
    encoded = word_tokens(tokenizer, [one.text for one in table.examples], table.names)
    for example, target, (ids, firsts) in zip(table.examples, targets, encoded, strict=True):
        row = np.full(length, tokenizer.pad_id, np.int32)
        wanted, weight = np.zeros(length, np.int32), np.zeros(length, np.float32)
        whole = [*before, *ids[:room], *after]
        row[: len(whole)] = whole
        for place, label in zip(firsts, target, strict=True):
            if place < room:
                wanted[len(before) + place], weight[len(before) + place] = label, weights[int(label)]
        cut, tokens = cut + (len(ids) > room), tokens + len(whole)
        unknown += tokenizer.unknown_ids(ids)
        raw = f"{example.text}\t{' '.join(map(str, example.label))}".encode()
        characters += len(raw)
        identity.add(raw)
        rows.append({"tokens": row, "count": len(whole), "targets": wanted, "weights": weight})
    return rows, SplitStats(len(rows), tokens, characters, cut, unknown)
