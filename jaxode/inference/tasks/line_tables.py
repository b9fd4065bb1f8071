"""Tasks of infer.py that read a file line by line: score with --lines, and classify. One CSV row a text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxode.config import DepthConfig, InferConfig, require
from jaxode.data.columns import PAIRS, Columns
from jaxode.data.documents import JSON_LINES, PARQUET, numbered_lines, suffix, text_format
from jaxode.data.tables import Table, has_field, read_table
from jaxode.data.tagged import read_tagged
from jaxode.data.targets import read_tags, read_targets
from jaxode.data.word_lines import WORD_A_LINE
from jaxode.evaluation.agreement import agreement
from jaxode.evaluation.entities import word_agreement
from jaxode.inference.loading.loaded_model import LoadedModel
from jaxode.inference.tasks.output import Write
from jaxode.inference.texts.batch_pass import Throughput
from jaxode.inference.texts.classification import classify_texts
from jaxode.inference.texts.scoring import score_texts
from jaxode.inference.texts.tagging import classify_words
from jaxode.model import SequenceClassifier

BATCH_SIZE = 32


@dataclass(frozen=True)
class Lines:
    """The texts of a file, one a line."""

    file: str
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    """Their lines in the file, from 1."""
    blank: int
    """Lines that were passed over, for they hold nothing but white space."""
    pairs: tuple[str, ...] | None = None
    """The second text of each, where the file holds pairs."""
    labels: tuple[Any, ...] | None = None
    """As the file has them, where they were asked for."""
    unit: str = "line"
    """What errors call a place in the file."""

    @classmethod
    def of(cls, table: Table, labelled: bool) -> Lines:
        """The examples of a table, with their labels where they are read."""
        examples = table.examples
        return cls(
            table.file,
            tuple(example.text for example in examples),
            tuple(example.line for example in examples),
            0,
            tuple(str(example.pair) for example in examples) if table.paired else None,
            tuple(example.label for example in examples) if labelled else None,
            table.unit,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What errors call them."""
        return tuple(f"{self.file}: {self.unit} {number}" for number in self.numbers)


def read_lines(file: str, text_key: str = "text", classified: bool = False) -> Lines:
    """The texts of a file, one a line; of JSON lines the field `text_key`; of a word a line (.conll, ..) the sentences.

    Only line feeds (and carriage returns before them) end a line, as for other programs that count lines.

    Args:
        file: its path.
        text_key: as data.text_key of the run.
        classified: whether the texts are to be labelled; a tab in one would stand between a pair of sentences.

    Raises:
        UserError: it cannot be read, is no UTF-8, is a table, or holds no text.
    """
    path = Path(file).expanduser()
    if suffix(path) in WORD_A_LINE and suffix(path) != ".tsv":
        return Lines.of(read_tagged(file, Columns(), labelled=False), labelled=False)
    lines = tuple(numbered_lines(path, text_key))
    kept = [(number, line) for number, line in lines if line.strip()]
    require(bool(kept), f"{file}: is empty; give texts, one a line")
    if classified and text_format(path) == "text":
        number = next((number for number, line in kept if "\t" in line), None)
        require(
            number is None,
            f"{file}: line {number} holds a tab: give one text a line, without tabs, or a table of texts or pairs as "
            ".tsv or .csv",
        )
    numbers, texts = zip(*kept, strict=True)
    return Lines(file, texts, numbers, len(lines) - len(kept))


def read_labelled(config: InferConfig, text_key: str) -> Lines:
    """The texts or pairs of the file that classify reads, with their labels where `config.label` names a column.

    Raises:
        UserError: as `read_table` for a table, or where columns are named; as `read_lines` else.
    """
    columns = Columns(config.text, config.pair, config.label, config.header, config.quotes)
    path = Path(config.file).expanduser()
    # what names its fields itself: where none is that of plain texts, others of common names are looked for
    named = suffix(path) in (PARQUET, *JSON_LINES)
    tabular = suffix(path) in (".tsv", ".csv") or (named and not has_field(path, [text_key]))
    if columns == Columns() and not tabular and not has_field(path, PAIRS):
        return read_lines(config.file, text_key, classified=True)
    labelled = bool(config.label)
    return Lines.of(read_table(config.file, columns, labelled=labelled), labelled)


def score_lines(
    loaded: LoadedModel,
    lines: Lines,
    config: InferConfig,
    depth: DepthConfig,
    write: Write,
    note: Write,
) -> Throughput:
    """Write line, tokens, nats and nats_per_token of every text.

    Args:
        loaded: a language model.
        lines: its texts.
        config: batch size, and whether long texts are cut.
        depth: of every solve.
        write: takes the CSV.
        note: takes lines about the pass.

    Raises:
        UserError: as `score_texts`.
    """
    done = score_texts(
        loaded,
        lines.texts,
        **line_settings(lines, config, depth, "score"),
    )
    rows = [
        (number, score.tokens, _number(score.nats), _number(score.nats_per_token))
        for number, score in zip(lines.numbers, done.scores, strict=True)
    ]
    write(_csv(("line", "tokens", "nats", "nats_per_token"), rows))
    tell(lines, done.truncated, done.unknown, done.throughput, note)
    return done.throughput


def classify_lines(
    loaded: LoadedModel,
    lines: Lines,
    config: InferConfig,
    depth: DepthConfig,
    write: Write,
    note: Write,
) -> Throughput:
    """Write what the classifier finds in every text, each within the tokenizer's template.

    The columns are line, then label and p(..) of every label; of several labels, `labels` holds those above 1/2,
    parted by ";"; a regression has a column score, or score(..) for each of several numbers. Where the file has labels
    of its own, lines about the run say how they agree.

    Args:
        loaded: a classifier.
        lines: its texts.
        config: batch size, and whether long texts are cut.
        depth: of every solve.
        write: takes the CSV.
        note: takes lines about the pass.

    Raises:
        UserError: as `classify_texts`.
    """
    labels, model = loaded.labels, loaded.model
    expected = None
    if lines.labels is not None and isinstance(model, SequenceClassifier):
        expected = read_targets(lines.labels, model.problem_type, labels, lines.names)
    done = classify_texts(
        loaded,
        lines.texts,
        pairs=lines.pairs,
        **line_settings(lines, config, depth, "classify"),
    )
    if done.problem_type == "regression":
        header = ("score",) if len(labels) == 1 else tuple(f"score({label})" for label in labels)
        columns = [tuple(map(_number, text.scores)) for text in done.classes]
    else:
        several = done.problem_type == "multi_label_classification"
        header = ("labels" if several else "label", *(f"p({label})" for label in labels))
        columns = [
            (
                _joined([labels[i] for i in text.labels]) if several else labels[text.labels[0]],
                *map(_number, text.probabilities),
            )
            for text in done.classes
        ]
    rows = [(number, *cells) for number, cells in zip(lines.numbers, columns, strict=True)]
    write(_csv(("line", *header), rows))
    tell(lines, done.truncated, done.unknown, done.throughput, note)
    if expected is not None:
        found = [text.scores or text.labels for text in done.classes]
        for name, value in agreement(expected, found, done.problem_type, labels).items():
            note(f"{name}: {value:.4f}")
    return done.throughput


def read_words(config: InferConfig) -> Lines:
    """The sentences of the file that a classifier of tokens reads, their words parted by single spaces, with the labels
    of the words where `config.label` names them.

    Raises:
        UserError: as `read_tagged`.
    """
    columns = Columns(config.text, config.pair, config.label, config.header, config.quotes)
    labelled = bool(config.label)
    return Lines.of(read_tagged(config.file, columns, labelled=labelled), labelled)


def classify_words_of_lines(
    loaded: LoadedModel, lines: Lines, config: InferConfig, depth: DepthConfig, write: Write, note: Write
) -> Throughput:
    """Write line, word, label and its probability, a row a word; arguments as of `classify_lines`.

    Raises:
        UserError: as `classify_words`.
    """
    labels = loaded.labels
    expected = None if lines.labels is None else read_tags(lines.labels, labels, lines.names)
    words = [text.split(" ") for text in lines.texts]
    done = classify_words(loaded, words, **line_settings(lines, config, depth, "classify"))
    rows = [
        (number, word, labels[label], _number(probability))
        for number, own, found, sure in zip(lines.numbers, words, done.labels, done.probabilities, strict=True)
        for word, label, probability in zip(own, found, sure, strict=False)  # words that were cut have none
    ]
    write(_csv(("line", "word", "label", "p"), rows))
    tell(lines, done.truncated, done.unknown, done.throughput, note)
    if expected is not None:
        # words that were cut count nowhere
        wanted = [row[: len(found)] for row, found in zip(expected, done.labels, strict=True)]
        for name, value in word_agreement(wanted, done.labels, labels).items():
            note(f"{name}: {value:.4f}")
    return done.throughput


def line_settings(lines: Lines, config: InferConfig, depth: DepthConfig, name: str) -> dict[str, Any]:
    """The arguments of functions on texts that the flags stand for."""
    return {
        "depth": depth,
        "batch_size": BATCH_SIZE if config.batch_size is None else config.batch_size,
        "frame": config.text_frame,
        "truncate": config.truncate,
        "names": lines.names,
        "progress": name,
    }


def tell(lines: Lines, truncated: int, unknown: int, throughput: Throughput, note: Write) -> None:
    """What happened to the lines, and how long it took."""
    if lines.blank:
        note(f"blank lines passed over: {lines.blank}")
    if truncated:
        note(f"texts cut to the length that the model reads: {truncated}")
    if unknown:
        note(f"pieces of text that the tokenizer does not know, read as its unknown token: {unknown}")
    note(
        f"{throughput.texts_per_second:.4g} texts/s: {throughput.texts} texts, {throughput.rows} rows, "
        f"{throughput.seconds:.1f} s, of which {throughput.seconds_first:.1f} s in the first batch of every length, "
        "with compilation"
    )


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _joined(labels: Sequence[str]) -> str:
    """Parted by ";"; a label that holds one stands in quotes, as in CSV."""
    text = io.StringIO()
    csv.writer(text, delimiter=";", lineterminator="").writerow(labels)
    return text.getvalue()


def _number(value: float) -> str:
    """As many digits as float32 holds."""
    return f"{value:.7g}"
