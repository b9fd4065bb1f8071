"""Everything in jaxode that reads a file of somebody's, each with a valid file to begin from."""

import contextlib
import dataclasses
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import mutations
import numpy as np
from families import CASES
from samples import (
    CONFIG,
    INFER_FLAGS,
    LINES,
    QUOTED,
    RECORD,
    RESULT,
    SAVED,
    TABLE,
    TRAIN_FLAGS,
    WORDS,
    params,
    text_of,
    write_albert,
    write_calibration,
    write_chosen,
    write_export,
    write_flags,
    write_log,
    write_prepared,
    write_run,
    write_study,
    write_tokenizer,
    write_vocabulary,
)

from jaxode.calibration import load_all
from jaxode.checkpoint import RunFolder, load_run
from jaxode.checkpoint.best import read_best
from jaxode.config import Config, InferConfig, from_toml, parse, to_toml
from jaxode.data import Tokenizer, byte_tokenizer, documents
from jaxode.data.columns import Columns
from jaxode.data.pretrained_tokenizers import from_pretrained
from jaxode.data.stores import make_folder
from jaxode.data.tables import read_table
from jaxode.data.tagged import read_tagged
from jaxode.evaluation.study.grid import load_study
from jaxode.evaluation.study.records import Result, Started, read_record, write_record
from jaxode.inference.tasks import main as tasks
from jaxode.interop.pretrained import class_names, model_config, pretrained_task
from jaxode.interop.tensor_files import open_tensors
from jaxode.model.parameters import fingerprint
from jaxode.tracking import JsonlTracker, read_jsonl
from jaxode.training import run as training_run
from jaxode.weights import WEIGHTS, read_weights

Change = Callable[[bytes, Any], bytes]


@dataclass(frozen=True)
class Reader:
    """Reads what lies in a folder."""

    name: str
    write: Callable[[Path], Any]
    """The valid files."""
    file: str
    """The one that is changed."""
    change: Change
    read: Callable[[Path], Any]
    share: float = 1.0
    """Of inputs; what reads slowly has a smaller one."""
    makes: bool = False
    """Whether `write` makes the folder."""
    checked: bool = False
    """Whether a change is noticed, or what `read` gives is the same as before."""

    def prepare(self, folder: Path) -> None:
        """Write the valid files into a folder that is not there yet."""
        if self.makes:
            self.write(folder)
            return
        folder.mkdir()
        self.write(folder)


def read_tokenizer(folder):
    tokenizer = from_pretrained(str(folder))
    tokenizer.encode_batch(["a text", ""])
    if tokenizer.chat_template is not None:
        tokenizer.chat("hello")
    return tokenizer.template


def read_config(folder):
    """Written again it says the same."""
    config = from_toml(Config, folder / "config.toml")
    (folder / "again.toml").write_text(to_toml(config), encoding="utf-8")
    assert from_toml(Config, folder / "again.toml") == config


def read_hugging_face(folder):
    pretrained_task(folder)
    class_names(folder)
    return model_config(folder)


def read_trained(folder):
    """All that decides what a model computes."""
    trained = load_run(folder)
    tokenizer = trained.own_tokenizer
    return trained.config, tokenizer.fingerprint, tokenizer.framed, fingerprint(trained.params)


def read_bare_weights(folder):
    """Without the checksums of the folder."""
    return fingerprint(read_weights(folder / WEIGHTS, params()).params)


def read_labels(name):
    """Of a table."""
    return lambda folder: read_table(str(folder / name), Columns(), labelled=True)


def read_words(name):
    """Of labelled sentences."""
    return lambda folder: read_tagged(str(folder / name), Columns(), labelled=True)


def read_calibrations(folder):
    """All that decides what calibrated solves compute."""
    return {
        steps: (
            one.schedule,
            one.kl,
            one.rise,
            one.origin,
            [np.asarray(x).tobytes() for x in jax.tree.leaves(one.coefficients)],
        )
        for steps, one in load_all(folder).items()
    }


def anything(_, rng):
    """Whatever the file held."""
    return mutations.any_bytes(rng)


def json_lines(content, rng):
    """One of its lines is altered."""
    lines = content.splitlines()
    at = rng.randint(0, len(lines) - 1)
    lines[at] = mutations.altered_json(lines[at], rng) if rng.random() < 0.8 else mutations.any_bytes(rng)
    return b"\n".join(lines)


def safetensors(content, rng):
    """Another header before the same numbers, or damage anywhere."""
    if rng.random() < 0.3:
        return mutations.damaged(content, rng)
    size = int.from_bytes(content[:8], "little")
    header = mutations.altered_json(content[8 : 8 + size], rng)
    length = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 2**31, 2**63))
    return length.to_bytes(8, "little") + header + content[8 + size :]


def either(*changes: Change) -> Change:
    """One of them."""
    return lambda content, rng: rng.choice(changes)(content, rng)


class Reached(Exception):
    """What is to be done was looked at, and would be done now."""


def reach(*_, **__):
    raise Reached


def read_run(folder):
    """What a run refuses before it looks at its text."""
    config = from_toml(Config, folder / "config.toml")
    with (
        mock.patch.object(training_run, "prepare", reach),
        mock.patch.object(training_run, "prepare_labelled", reach),
        contextlib.suppress(Reached),
    ):
        training_run.train(dataclasses.replace(config, out=str(folder / "run")))


def read_task(folder):
    """What a task refuses before a weight is read."""
    config = from_toml(InferConfig, folder / "infer.toml")
    with (
        mock.patch.object(tasks, "load_folder", reach),
        mock.patch.object(tasks, "keep_compiled"),
        contextlib.suppress(Reached),
    ):
        tasks.run(config, write=str, note=str)


def read_command(kind):
    """Flags and their values, which stand in a list."""

    def read(folder):
        arguments = json.loads((folder / "argv.json").read_text())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = 0
            try:
                parse(kind, arguments)
            except SystemExit as stop:
                code = stop.code
            assert code in (0, 2)

    return read


OTHER_FLAGS = ("--help", "--config", "--config=../../x", "--no-tied", "--", "-")


def flags(content, rng):
    """Other values, other names, and what is left of them."""
    arguments = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randint(0, len(arguments) - 1)
        pool = rng.choice((mutations.LITERALS, mutations.TEXTS, OTHER_FLAGS))
        kind = rng.randint(0, 6)
        if kind <= 3:
            arguments[min(at | 1, len(arguments) - 1)] = rng.choice(pool)
        elif kind == 4:
            del arguments[at]
        elif kind == 5:
            arguments.insert(at, rng.choice(pool))
        else:
            arguments[at] = arguments[at] + rng.choice(("x", "=", "=1", "."))
        arguments = arguments or ["--help"]
    return json.dumps(arguments).encode()


def read_prepared(folder):
    def fill(aside):
        (aside / "a").write_text("text")

    make_folder(folder / "rows", fill)
    return (folder / "rows" / "a").read_text()


def read_log(folder):
    read_jsonl(folder / "metrics.jsonl")
    JsonlTracker(folder / "metrics.jsonl", after=2).close()


JSON, BYTES = mutations.altered_json, mutations.damaged
BOTH = either(JSON, BYTES)
TEXT = either(BYTES, anything)


def tables(name, content, change):
    return Reader(f"table {name}", text_of(name, content), name, change, read_labels(name))


READERS = [
    Reader(
        "config.toml", text_of("config.toml", to_toml(Config())), "config.toml", mutations.altered_toml, read_config
    ),
    Reader(
        "config.toml of a run",
        text_of("config.toml", to_toml(CONFIG)),
        "config.toml",
        mutations.altered_toml,
        read_run,
        share=0.5,
    ),
    Reader(
        "infer.toml of a task",
        text_of("infer.toml", to_toml(InferConfig(checkpoint="books-causal", prompt="a text"))),
        "infer.toml",
        mutations.altered_toml,
        read_task,
        share=0.5,
    ),
    Reader("flags of train.py", write_flags(TRAIN_FLAGS), "argv.json", flags, read_command(Config), share=0.02),
    Reader("flags of infer.py", write_flags(INFER_FLAGS), "argv.json", flags, read_command(InferConfig), share=0.1),
    Reader("study", write_study, "study.toml", mutations.altered_toml, lambda at: load_study(at / "study.toml")),
    Reader(
        "infer.toml",
        text_of("infer.toml", to_toml(InferConfig())),
        "infer.toml",
        mutations.altered_toml,
        lambda at: from_toml(InferConfig, at / "infer.toml"),
    ),
    Reader("calibration", write_calibration, "calibration-3.json", BOTH, read_calibrations, checked=True),
    Reader("best.json", write_chosen, "best.json", BOTH, lambda at: read_best(RunFolder(at)), makes=True),
    *(
        Reader(f"export, {name}", write_export, name, change, read_trained, share=0.1, makes=True, checked=True)
        for name, change in (
            ("config.toml", either(mutations.altered_toml, BYTES)),
            ("tokenizer/tokenizer.json", BOTH),
            ("tokenizer/jaxode_tokenizer.json", BOTH),
            (WEIGHTS, safetensors),
        )
    ),
    Reader(
        "weights",
        write_export,
        WEIGHTS,
        safetensors,
        read_bare_weights,
        makes=True,
        checked=True,
    ),
    *(
        Reader(f"run, {name}", write_run, name, change, read_trained, share=0.02, makes=True, checked=True)
        for name, change in (
            ("config.toml", either(mutations.altered_toml, BYTES)),
            ("checkpoints/7/params/_METADATA", BOTH),
            ("checkpoints/7/_CHECKPOINT_METADATA", BOTH),
            ("checkpoints/7/fingerprints/metadata", BOTH),
            ("checkpoints/7/params/manifest.ocdbt", BYTES),
        )
    ),
    Reader("saved tokenizer", lambda at: byte_tokenizer().save(at), "tokenizer.json", BOTH, Tokenizer.load, share=0.5),
    Reader("tokenizer roles", lambda at: byte_tokenizer().save(at), SAVED, BOTH, Tokenizer.load, share=0.5),
    Reader("tokenizer.json", write_tokenizer, "tokenizer.json", BOTH, read_tokenizer, share=0.1),
    Reader("tokenizer_config.json", write_tokenizer, "tokenizer_config.json", BOTH, read_tokenizer, share=0.1),
    Reader("vocab.txt", write_vocabulary, "vocab.txt", TEXT, read_tokenizer, share=0.1),
    Reader("albert", write_albert, "config.json", BOTH, read_hugging_face, makes=True),
    *(
        Reader(f"looped {name}", case.write, "config.json", BOTH, read_hugging_face, makes=True, share=0.5)
        for name, case in CASES.items()
    ),
    Reader("weights index", write_albert, "model.safetensors.index.json", BOTH, open_tensors, makes=True),
    Reader("record", lambda at: write_record(at / "r", RECORD), "r", BOTH, lambda at: read_record(Started, at / "r")),
    Reader("result", lambda at: write_record(at / "r", RESULT), "r", BOTH, lambda at: read_record(Result, at / "r")),
    Reader("checksums", write_prepared, "rows/checksums.json", BOTH, read_prepared),
    Reader("metrics.jsonl", write_log, "metrics.jsonl", either(json_lines, BYTES), read_log),
    tables("t.tsv", TABLE, TEXT),
    tables("t.csv", QUOTED, TEXT),
    tables("t.jsonl", LINES, either(json_lines, TEXT)),
    Reader("words of lines", text_of("w.jsonl", WORDS), "w.jsonl", either(json_lines, TEXT), read_words("w.jsonl")),
    Reader("words in columns", text_of("w.conll", "a\tX\nfilm\tO\n\nb\tX\n"), "w.conll", TEXT, read_words("w.conll")),
    *(
        Reader(f"text {name}", text_of(name, content), name, change, lambda at, name=name: encoded(at / name))
        for name, content, change in (
            ("t.txt", "A text.\nAnother line.\n", TEXT),
            ("t.jsonl", LINES, either(json_lines, TEXT)),
            ("t.json", LINES, either(json_lines, TEXT)),
            ("t.txt.gz", gzip.compress(b"A text of many words.\n" * 20, mtime=0), TEXT),
        )
    ),
]


@cache
def _bytes():
    return byte_tokenizer()


def encoded(path):
    """Every text of a file as tokens, which give it back."""
    for text in documents.read_texts(path):
        assert _bytes().decode(_bytes().encode(text), skip_special=False) == text
