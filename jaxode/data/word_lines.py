"""From files with a word a line, its labels in columns behind it, to sentences: as CoNLL's shared tasks have them, and
Universal Dependencies (.conllu, https://universaldependencies.org/format.html). Imports no jax.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxode.config import require
from jaxode.data import documents
from jaxode.data.columns import Columns
from jaxode.data.tables import Example
from jaxode.data.targets import label_name

WORD_A_LINE = (*documents.TAGGED, ".tsv")
UNIVERSAL = ".conllu"

WORDS = ("tokens", "words", "text", "sentence")
TAGS = ("ner_tags", "ner", "tags", "labels", "pos_tags", "pos", "upos", "label")
"""Names of words and of labels that are known without being named, in this order."""

HEADERS = ({"word", "token", *WORDS}, {"tag", *TAGS})
"""What the first line of a table would say."""


@dataclass(frozen=True)
class _Line:
    number: int
    cells: Sequence[str]
    """None of a blank line."""
    remark: bool
    """Whether it looks like a comment, and stands where one may."""


def word_lines(file: str, columns: Columns, *, labelled: bool) -> Iterator[Example]:
    """Yield the sentences, each numbered by its first line.

    Columns are parted by tabs or else by white space; blank lines end sentences. The first column is the word and the
    last the label where no numbers are given, of .conllu the second (FORM) and the fourth (UPOS); there lines of
    several words (2-3) and of none (2.1) are passed over. So are lines that begin with -DOCSTART-, and comments: lines
    before a sentence that begin with "# " (of .conllu with "#"), but for those that have the columns of a word and end
    as others do: "#" is a word, too.

    Args:
        file: may end in .gz or .xz.
        columns: numbers of the columns from 1.
        labelled: whether labels are read.

    Raises:
        UserError: what cannot be read, a column that is not there, a line with another number of columns than the
            first, or a header.
    """
    path = Path(file).expanduser()
    universal = documents.suffix(path) == UNIVERSAL
    lines = list(_lines(path, "#" if universal else "# "))
    plain = [line for line in lines if line.cells and not line.remark]
    if not plain:
        return
    first = plain[0]
    size, ends = len(first.cells), {line.cells[-1] for line in plain}
    word, tag = _places(f"{file}: line {first.number}", size, columns, universal, labelled)
    header = [cell.strip().lower() for cell in (first.cells[word], first.cells[tag if labelled else -1])]
    require(
        size == 1 or header[0] not in HEADERS[0] or header[1] not in HEADERS[1],
        f"{file}: line {first.number} is a header, and words with labels have none; remove it",
    )
    words: list[str] = []
    tags: list[str] = []
    begins = 0
    for line in (*lines, _Line(0, (), remark=False)):
        if line.remark and (universal or len(line.cells) != size or line.cells[-1] not in ends):
            continue
        if line.cells:
            name = f"{file}: line {line.number}"
            require(
                len(line.cells) == size,
                f"{name} has {len(line.cells)} columns, line {first.number} has {size}: give every word as many",
            )
            if universal and re.fullmatch(r"\d+[-.]\d+", line.cells[0]):
                continue
            begins = begins or line.number
            words.append(_cell(line.cells[word], name))
            if labelled:
                tags.append(label_name(_cell(line.cells[tag], name), name))
        elif words:
            yield Example(" ".join(words), None, tuple(tags) if labelled else None, begins)
            words, tags, begins = [], [], 0


def _lines(path: Path, mark: str) -> Iterator[_Line]:
    """Each line but those of -DOCSTART-."""
    before = True
    for number, line in documents.numbered_lines(path, table=True):
        if line.startswith("-DOCSTART-"):
            continue
        cells = () if not line.strip() else line.split("\t") if "\t" in line else line.split()
        remark = before and line.startswith(mark)
        yield _Line(number, cells, remark)
        before = not cells or remark


def _places(name: str, size: int, columns: Columns, universal: bool, labelled: bool) -> tuple[int, int]:
    """Where in a line the word stands, and its label."""
    require(size > 1 or not labelled, f"{name} has a word and no label behind it")
    word = _place("text", columns.text, 2 if universal else 1, size, name)
    if not labelled:
        return word, word
    tag = _place("label", columns.label, 4 if universal else size, size, name)
    require(
        word != tag,
        f"{name}: column {word + 1} for the word and for its label: name two (data.text, data.label; --text, --label)",
    )
    return word, tag


def _place(what: str, asked: str, common: int, size: int, name: str) -> int:
    require(
        not asked or (asked.isdecimal() and int(asked) >= 1),
        f"{what} = {asked}: columns of words have numbers, from 1 (data.{what}, --{what})",
    )
    number = int(asked) if asked else common
    require(number <= size, f"{name} has {size} columns, and none of number {number} (data.{what}, --{what})")
    return number - 1


def _cell(cell: str, name: str) -> str:
    text = cell.strip()
    require(bool(text) and text.split() == [text], f"{name}: {cell!r} is no word; give one a line")
    return text
