"""A valid file of every kind that jaxode reads."""

import dataclasses
import json
from functools import cache

import jax.numpy as jnp
import numpy as np

from jaxode.calibration import Calibration, Origin, save
from jaxode.checkpoint import Checkpoints, RunFolder, TrainedModel
from jaxode.checkpoint.best import Best, write_best
from jaxode.config import Config, DataConfig, ModelConfig, to_toml
from jaxode.data import byte_tokenizer
from jaxode.data.stores import make_folder
from jaxode.depth import Coefficients
from jaxode.evaluation.study.records import Code, Result, Started
from jaxode.inference.loading import export
from jaxode.interop import Pretrained, save_pretrained
from jaxode.model import make_model
from jaxode.model.gains import Gains
from jaxode.model.parameters import split
from jaxode.tracking import JsonlTracker

MODEL = ModelConfig(vocab_size=259, width=8, heads=1, length=16, steps=2)
CONFIG = Config(model=MODEL, data=DataConfig(tokenizer="bytes"))
ALBERT = ModelConfig(
    kind="masked",
    vocab_size=259,
    width=8,
    heads=1,
    length=16,
    steps=2,
    embedding_width=8,
    token_types=2,
    norm_position="post",
    positions="learned",
    embedding_norm=True,
    feed_forward="gelu",
    head_activation="gelu",
)
CHAT = "{% for message in messages %}{{ bos_token }}{{ message.content }}{% endfor %}"


@cache
def params():
    """Of the tiny model."""
    return split(make_model(MODEL))[1]


def calibration():
    """With every part that there is."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(3, 2, 8, 2)).astype(np.float16).astype(np.float32)
    back = rng.normal(size=(3, 2, 8)).astype(np.float16).astype(np.float32)
    weights = rng.normal(size=(3, 2)).astype(np.float32)
    fitted = Coefficients(weights, half, back, Gains.neutral(MODEL, 3, 0))
    return Calibration(3, (1, 1, 1), fitted, kl=0.1, rise=0.05, tokens=64, seconds=1.0)


def write_calibration(folder):
    save(folder, calibration(), Origin(dataclasses.asdict(MODEL), "t", "w"))


def write_run(folder):
    """With checkpoints of two updates."""
    run = RunFolder(folder)
    run.create(CONFIG, byte_tokenizer())
    write_best(run, Best(3, "nats_per_token", 1.5, True))
    with Checkpoints(run) as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, params(), {"count": jnp.asarray(step)}, {"step": step, "seed": 0})
            checkpoints.wait()


def write_chosen(folder):
    """Without its checkpoints."""
    RunFolder(folder).create(CONFIG, byte_tokenizer())
    write_best(RunFolder(folder), Best(3, "nats_per_token", 1.5, True))


def write_export(folder):
    model = make_model(MODEL)
    architecture, numbers = split(model)
    trained = TrainedModel(model, architecture, numbers, CONFIG, byte_tokenizer(), "causal", step=5)
    export.write(trained, {3: calibration()}, folder, "a card")


def write_albert(folder, tokenizer=None):
    model = make_model(ALBERT)
    architecture, numbers = split(model)
    config = Config(model=ALBERT)
    albert = Pretrained(model, architecture, numbers, config, tokenizer, "masked", {"id2label": {"0": "a", "1": "b"}})
    save_pretrained(albert, folder, max_shard_bytes=6000)


def write_tokenizer(folder):
    byte_tokenizer().save_model(folder)
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def write_vocabulary(folder):
    (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c")) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def text_of(name, content):
    """A writer of one file."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(raw)


TRAIN_FLAGS = {
    "--model.width": "64",
    "--model.heads": "2",
    "--model.attention.window": "0",
    "--train.updates": "10",
    "--depth.steps": "3",
    "--data.files": "a/*.txt",
    "--data.task.modulus": "5",
    "--objective.steps": "uniform",
    "--optimizer.learning-rate": "1e-3",
    "--out": "run",
}
INFER_FLAGS = {
    "--checkpoint": "run",
    "--prompt": "a text",
    "--steps": "3",
    "--top-p": "0.9",
    "--temperature": "0.5",
    "--seed": "1",
    "--max-new-tokens": "5",
    "--top-k": "5",
}


def write_flags(flags):
    """A command line as a list."""
    words = [word for pair in flags.items() for word in pair]
    return text_of("argv.json", json.dumps(words))


def write_prepared(folder):
    def fill(aside):
        (aside / "a").write_text("text")

    make_folder(folder / "rows", fill)


def write_log(folder):
    tracker = JsonlTracker(folder / "metrics.jsonl")
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 1.0 / step})
    tracker.close()


STUDY = """
[study]
recipe = "recipe.toml"
baseline = "a"
seeds = [0, 1]
evaluate = [2]
calibrate = [1]
[settings]
"train.updates" = 10
[axes.width.8]
"model.width" = 8
[axes.width.16]
"model.width" = 16
[[variant]]
name = "a"
[[variant]]
name = "b"
settings = {"model.steps" = 4}
"""


def write_study(folder):
    (folder / "recipe.toml").write_text(to_toml(CONFIG))
    (folder / "study.toml").write_text(STUDY.replace("recipe.toml", str(folder / "recipe.toml")))


RECORD = Started({"model": {"width": 8}}, Code("0", "sha256:0"), {"train": 10}, 1.0)
RESULT = Result(RECORD, 10, 20, 1.5, rows=({"steps": 3, "solver": "euler"},))
TABLE = "text\tlabel\na good film\tyes\na bad one\tno\n"
QUOTED = 'text,label\n"a, ""good"" film",yes\n"two\nlines",no\n'
LINES = '{"text": "a good film", "label": 1}\n{"text": "dull", "label": 0}\n'
WORDS = '{"tokens": ["a", "film"], "ner_tags": [0, 1]}\n{"tokens": ["b"], "ner_tags": [1]}\n'
SAVED = "jaxode_tokenizer.json"
