"""From labelled files to batches of texts with their targets, one text or pair a row."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxode.config import DataConfig, ModelConfig, require
from jaxode.config.checks import parse_frame
from jaxode.data.batches import Batches, BatchSpec, ValidationBatches
from jaxode.data.byte_level import byte_tokenizer
from jaxode.data.columns import Columns
from jaxode.data.identity import IdentityCounter
from jaxode.data.notices import notice
from jaxode.data.prepared import PreparedData, cache_folder
from jaxode.data.pretrained_tokenizers import find_tokenizer
from jaxode.data.splitting import EqualTexts
from jaxode.data.stats import SplitStats
from jaxode.data.tables import Table, is_table, read_table
from jaxode.data.tagged import read_tagged, tagged_rows
from jaxode.data.targets import Target, label_name, label_parts, read_tags, read_targets
from jaxode.data.tokenizers import Frame, Tokenizer

SPLIT_SEED = 0x5917


@dataclass(frozen=True)
class LabelledData(PreparedData):
    """Labelled texts, ready to train on."""

    labels: tuple[str, ...] = ()
    """Names by number: of a choice, what its training data has, in the order of numbers, of the file's own names, or of
    the alphabet."""

    def train(self, batch_size: int, seed: int, part: tuple[int, int] = (0, 1)) -> Batches:
        """Endless shuffled batches, or of each a `part`.

        Raises:
            UserError: fewer texts than a batch holds.
        """
        rows = len(self.train_rows)
        require(rows >= batch_size, f"{self.corpus}: {rows} texts do not fill a batch; lower train.batch_size")
        return Batches(self.train_rows, self.spec, batch_size, seed, self.identity, self.edited, part)


def prepare_labelled(data: DataConfig, model: ModelConfig, tokenizer: Tokenizer | None = None) -> LabelledData:
    """Read the tables that `data` names, and put each text or pair into a row of the model's length.

    Args:
        data: names the files and their columns.
        model: its length, kind of problem, and labels where they are known.
        tokenizer: of the model; None takes `data.tokenizer`.

    Raises:
        UserError: whatever in the files, their columns, texts or labels cannot be used; file and line are named.
    """
    if tokenizer is None:
        require(
            data.tokenizer != "bpe",
            'data.tokenizer = "bpe": no vocabulary is learned from labelled texts; begin with a model (init), or use '
            '"bytes" or a pretrained tokenizer',
        )
        tokenizer = byte_tokenizer() if data.tokenizer == "bytes" else find_tokenizer(data.tokenizer)
    columns = Columns(data.text, data.pair, data.label, data.header, data.quotes)
    by_word = model.head == "token_classifier"
    train, valid = (_read(which, data, columns, by_word) for which in ("train", "valid"))
    assert train is not None
    several = by_word or model.problem_type == "multi_label_classification"
    labels = model.labels or (_scores(train) if model.problem_type == "regression" else _labels(train, several))
    if valid is None:
        train, valid = _divided(train, data.valid_fraction)
    require(
        train.paired == valid.paired,
        f"{train.file} holds {'pairs' if train.paired else 'texts'} and {valid.file} does not: name the columns",
    )
    valid = _shuffled(valid)
    targets = {name: _targets(table, model, labels) for name, table in (("train", train), ("validation", valid))}
    _check_present(train, targets["train"], labels, model.problem_type)
    weights = _weights(targets["train"], len(labels), data.class_weights)
    spec, frame = _spec(tokenizer, model), parse_frame("data.frame", data.frame)
    rows, stats, identity = {}, {}, {}
    for name, table in (("train", train), ("validation", valid)):
        counter = IdentityCounter(len(table.examples), table.names.__getitem__)
        rows[name], stats[name] = _rows(table, targets[name], weights, tokenizer, frame, model, counter)
        identity[name] = counter.identity()
        for note in stats[name].notes(model.length):
            notice(f"{table.file}: {note}")
    return LabelledData(
        corpus=data.train,
        tokenizer=tokenizer,
        length=model.length,
        spec=spec,
        stats=stats,
        train_rows=rows["train"],
        validation_rows=rows["validation"],
        identity=identity,
        edited=data.edited,
        labels=labels,
    )


def _spec(tokenizer: Tokenizer, model: ModelConfig) -> BatchSpec:
    return BatchSpec(tokenizer, "token_classifier" if model.head == "token_classifier" else "classifier")


def _targets(table: Table, model: ModelConfig, labels: Sequence[str]) -> tuple[Target, ...]:
    values = [one.label for one in table.examples]
    if model.head == "token_classifier":
        return read_tags(values, labels, table.names)
    return read_targets(values, model.problem_type, labels, table.names)


def _read(which: str, data: DataConfig, columns: Columns, by_word: bool) -> Table | None:
    """The table that data.train or data.valid names, or a split of a TFDS set; None where there is no valid one."""
    is_file = _holds_words if by_word else is_table
    name = str(getattr(data, which)) or ("" if is_file(data.train) else data.train)
    if not name:
        return None
    if is_file(name):
        return (read_tagged if by_word else read_table)(name, columns, labelled=True)
    from jaxode.data.labelled_sets import VALIDATION, labelled_set
    from jaxode.data.registered import is_registered

    field = f"data.{which}"
    no_file, sets = "is no table by its name (.tsv, .csv, .jsonl, .ndjson or .parquet)", "glue/sst2, ag_news_subset, .."
    if by_word:
        no_file, sets = "is no file", "conll2003, wikiann/en, .."
    require(is_registered(name), f'{field} = "{name}": {no_file}, and no set that TFDS knows ({sets})')
    splits = ("train",) if which == "train" else VALIDATION
    found = labelled_set(name, columns, cache_folder(data), splits, field, by_word)
    require(
        found is not None or (which == "valid" and not data.valid),
        f'{field} = "{name}": has no split with labels to {"train" if which == "train" else "validate"} on',
    )
    return found


def _holds_words(name: str) -> bool:
    """Whether it means a file, which may be called anything."""
    path = Path(name).expanduser()
    return path.exists() and not path.is_dir()


def labelled_batches(
    table: Table,
    tokenizer: Tokenizer,
    model: ModelConfig,
    labels: Sequence[str],
    *,
    frame: Frame = None,
    batch_size: int = 32,
    limit: int | None = None,
) -> tuple[ValidationBatches, SplitStats]:
    """A labelled file to measure a classifier on: its texts or pairs in an order of their own, each once.

    Args:
        table: as `read_table` gives it, or `read_tagged` for one of tokens.
        tokenizer: of the model.
        model: its length and kind of problem.
        labels: of the model, by number.
        frame: what stands around a text; None: what the tokenizer says.
        batch_size: texts of a batch.
        limit: of batches; None reads all.

    Raises:
        UserError: a label that the model has not, or a text that cannot be used.
    """
    table = _shuffled(table)
    targets = _targets(table, model, labels)
    counter = IdentityCounter(len(table.examples), table.names.__getitem__)
    rows, stats = _rows(table, targets, np.ones(len(labels), np.float32), tokenizer, frame, model, counter)
    return ValidationBatches(rows, _spec(tokenizer, model), min(batch_size, len(rows)), limit), stats


def _divided(table: Table, share: float) -> tuple[Table, Table]:
    """Some of the examples for validation, the same ones whenever the file is the same."""
    count = len(table.examples)
    held = max(1, round(share * count))
    require(held < count, f"{table.file}: {count} examples are too few to hold some out; name data.valid")
    chosen = set(np.random.default_rng(SPLIT_SEED).permutation(count)[:held].tolist())
    equal = EqualTexts()
    for place, example in enumerate(table.examples):
        # no text holds NUL characters, so that unlike pairs stay unlike
        equal.add("\0".join((example.text, example.pair or "")), place in chosen)
    if note := equal.note():
        notice(f"{table.file}: {note}")
    parts = ([one for i, one in enumerate(table.examples) if (i in chosen) == side] for side in (False, True))
    train, valid = (dataclasses.replace(table, examples=tuple(part)) for part in parts)
    return train, valid


def _shuffled(table: Table) -> Table:
    """In an order of its own: files are often sorted by label, and some of a validation is to be like the whole."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(table.examples))
    return dataclasses.replace(table, examples=tuple(table.examples[i] for i in order))


def _scores(table: Table) -> tuple[str, ...]:
    """Names of the numbers that the file holds."""
    counts = [len(label_parts(example.label)) for example in table.examples]
    # of most examples: then what has others is refused, and not all others
    count = Counter(counts).most_common(1)[0][0]
    require(
        count > 0,
        f"{table.names[counts.index(count)]} holds no number to predict, as most rows have none; a regression needs "
        "some for every text",
    )
    return ("score",) if count == 1 else tuple(f"score {i + 1}" for i in range(count))


def _labels(table: Table, several: bool) -> tuple[str, ...]:
    """Names of the labels that the file holds, of which an example may have several."""
    found: set[str] = set()
    for example, name in zip(table.examples, table.names, strict=True):
        found |= {label_name(one, name) for one in (label_parts(example.label) if several else [example.label])}
    if found <= set(table.classes):
        ordered = [name for name in table.classes if name in found]
    else:
        ordered = sorted(found, key=int) if all(name.isdecimal() for name in found) else sorted(found)
    some = ordered[0] if ordered else "empty"
    least = 1 if several and not isinstance(table.examples[0].label, tuple) else 2
    require(len(ordered) >= least, f"{table.file}: all labels are {some}: nothing to learn")
    return tuple(ordered)


def _check_present(table: Table, targets: Sequence[Target], labels: Sequence[str], problem_type: str) -> None:
    if problem_type == "regression":
        return
    seen = {label for target in targets for label in target}
    missing = [name for number, name in enumerate(labels) if number not in seen]
    require(
        not missing,
        f"{table.file}: no training text has the label {', '.join(missing)}: nothing could be learned of it; give "
        "more, or name validation texts of their own with data.valid",
    )


def _weights(targets: Sequence[Target], labels: int, how: str) -> np.ndarray:
    """Of each label."""
    if how == "none":
        return np.ones(labels, np.float32)
    counts = Counter(int(label) for target in targets for label in target)
    return np.asarray([counts.total() / (labels * counts[label]) for label in range(labels)], np.float32)


def _rows(
    table: Table,
    targets: Sequence[Target],
    weights: np.ndarray,
    tokenizer: Tokenizer,
    frame: Frame,
    model: ModelConfig,
    identity: IdentityCounter,
) -> tuple[list[Mapping[str, Any]], SplitStats]:
    if model.head == "token_classifier":
        return tagged_rows(table, targets, weights, tokenizer, frame, model.length, identity)
    examples = table.examples
    firsts = tokenizer.encode_batch([one.text for one in examples])
    seconds = tokenizer.encode_batch([str(one.pair) for one in examples]) if table.paired else None
    before, after = tokenizer.around(frame)
    template = tokenizer.pair_template(frame) if seconds is not None else None
    size = len(before) + len(after) if template is None else template.size + 1
    require(size < model.length, f"model.length = {model.length}: {size} tokens stand around every text")
    rows, cut, tokens, characters = [], 0, 0, 0
    for number, example in enumerate(examples):
        name = table.names[number]
        first, second = firsts[number], None if seconds is None else seconds[number]
        require(
            bool(first) and (second is None or bool(second)),
            f"{name} holds no token that tokenizer {tokenizer.name} knows: remove it",
        )
        if template is not None and second is not None:
            whole = len(first) + len(second) + template.size
            ids, kinds = template.row(first, second, model.length)
        else:
            whole = len(first) + size
            ids, kinds = [*before, *first[: model.length - size], *after], None
        cut += whole > model.length
        tokens += len(ids)
        raw = "\t".join([example.text, *([] if example.pair is None else [example.pair]), str(example.label)]).encode()
        characters += len(raw)
        identity.add(raw)
        rows.append(_row(ids, kinds, targets[number], weights, tokenizer, model))
    unknown = tokenizer.count_unknown([one.text for one in examples], firsts)
    if seconds is not None:
        unknown += tokenizer.count_unknown([one.pair or "" for one in examples], seconds)
    return rows, SplitStats(len(examples), tokens, characters, cut, unknown)


def _row(
    ids: Sequence[int],
    kinds: Sequence[int] | None,
    target: Target,
    weights: np.ndarray,
    tokenizer: Tokenizer,
    model: ModelConfig,
) -> dict[str, Any]:
    row = np.full(model.length, tokenizer.pad_id, np.int32)
    row[: len(ids)] = ids
    told = {}
    if kinds is not None and model.token_types > 1:
        told["kinds"] = np.zeros(model.length, np.int32)
        told["kinds"][: len(kinds)] = kinds
    weight = 1.0
    if model.problem_type == "multi_label_classification":
        wanted = np.zeros(len(weights), np.float32)
        wanted[[int(label) for label in target]] = 1
    else:
        wanted = np.asarray(target, np.float32)
        if model.problem_type == "single_label_classification":
            weight = float(weights[int(target[0])])
    return {"tokens": row, "count": len(ids), "wanted": wanted, "weight": np.float32(weight), **told}
