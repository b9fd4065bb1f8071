"""Which model a name means, told before any weight is read: a folder on disk, a shipped model, a Hugging Face name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxode.checkpoint import RunFolder, Task
from jaxode.config import DepthConfig, ModelConfig, UserError, require
from jaxode.config.task_settings import READERS
from jaxode.interop import is_pretrained, locate, model_config, pretrained_task
from jaxode.interop.pretrained import with_loops

SHIPPED = Path(__file__).parents[2] / "shipped"
DEFAULTS = {"causal": "books-causal", "masked": "books-masked"}
"""The shipped model of each kind that stands in where there is no run."""

Origin = Literal["shipped", "run", "exported", "huggingface"]


@dataclass(frozen=True)
class ModelFolder:
    """What a name means."""

    path: Path
    origin: Origin
    task: Task
    """What the model predicts."""
    config: ModelConfig
    text_key: str = "text"
    """Field of a line of JSON that holds its text, as in the run's own corpus."""
    trained_steps: int | None = None
    """N of its files, where `config` has another that was asked for."""
    trained: DepthConfig = field(default_factory=DepthConfig)
    """Solver and schedule of its training; steps where it was trained in one number of them alone that is not N."""

    @property
    def ours(self) -> bool:
        """Whether jaxode made the folder and may write beside the weights."""
        return self.origin in ("run", "exported")

    def __str__(self) -> str:
        """As it is called in notes."""
        return f"shipped model {self.path.name}" if self.origin == "shipped" else f"run {self.path}"


def resolve(name: Path | str, task: str | None = None, loops: int | None = None) -> ModelFolder:
    """The folder that a path, the name of a shipped model, or a Hugging Face name means.

    A folder goes before a shipped model of its name. A Hugging Face name is looked for in the cache of this machine,
    then on the hub.

    Args:
        name: a path, or a name.
        task: of a Hugging Face model, where its config.json shall not decide: masked, classifier, token_classifier,
            question_answering or encoder.
        loops: N of a Hugging Face looped language model, in place of its config.json's.

    Raises:
        UserError: none of them, or a folder that holds no model.
    """
    path = _folder(name)
    if is_pretrained(path):
        own, task = model_config(path), pretrained_task(path, task)
        if loops is None:
            return ModelFolder(path, "huggingface", task, own)
        config = with_loops(path, own, loops)
        return ModelFolder(
            path, "huggingface", task, config, trained_steps=own.steps if own.steps != config.steps else None
        )
    require(
        (path / "config.toml").is_file(),
        f"{path}: holds no config.toml, so it is no run folder (nor a Hugging Face model: {path / 'config.json'}: "
        "missing); name the folder that train.py printed",
    )
    require(
        loops is None,
        f"{path}: loops = {loops} is for a Hugging Face looped language model; of what jaxode wrote --steps or "
        "DepthConfig(steps=..) says how many run",
    )
    run = RunFolder(path)
    config = run.config()
    kind = config.model.learns
    require(
        task in (None, kind),
        f'{path}: is a {kind} model: task = "{task}" is for a Hugging Face model; leave it out',
    )
    origin: Origin = "shipped" if is_shipped(path) else "exported" if run.exported else "run"
    trained = DepthConfig(config.only_steps, config.depth.solver, config.depth.schedule)
    return ModelFolder(path, origin, kind, config.model, config.data.text_key, trained=trained)


def shipped() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/config.toml"))}


def is_shipped(path: Path) -> bool:
    """Whether a folder belongs to the package, which is not written to."""
    return path.resolve().parent == SHIPPED.resolve()


def _folder(name: Path | str) -> Path:
    path, models = Path(name).expanduser(), shipped()
    if path.is_dir():
        return path
    if str(name) in models:
        return models[str(name)]
    unknown = f"{name}: no such run folder, and no shipped model of that name (shipped: {', '.join(models) or 'none'})"
    # what would lie below a folder that is here was meant as a path
    parts = re.fullmatch(r"([\w-][\w.-]*)(/[\w.-]+)?", str(name))
    if parts is None or path.exists() or (parts[2] and Path(parts[1]).is_dir()):
        raise UserError(unknown)
    try:
        return locate(name)
    except UserError as error:
        if parts[2]:  # only a hub has names of two parts
            raise UserError(f"{error}; no run folder is called so either") from None
        reason = str(error).removeprefix(f"{name}: ").split(";")[0]
        raise UserError(f"{unknown}; as the name of a Hugging Face model: {reason}") from None


TASKS: dict[Task, tuple[str, ...]] = {
    "causal": ("generate", "score", "encode", "sweep", "report", "calibrate", "export", "bench"),
    "masked": ("fill", "score", "encode", "sweep", "report", "calibrate", "export"),
    "classifier": ("classify", "encode", "sweep", "report", "calibrate", "export"),
    "token_classifier": ("classify", "encode", "sweep", "report", "calibrate", "export", "bench"),
    "question_answering": ("encode", "sweep", "report", "calibrate", "bench"),
    "encoder": ("encode", "sweep", "report", "calibrate", "export", "bench"),
}
"""What each kind of model can do in infer.py; the first is what it does where no task is named."""

STATE_TASKS = ("token_classifier", "question_answering", "encoder")
"""Models that are measured by their states."""

LINE_TASKS = ("classifier", *STATE_TASKS)
"""Models that read a text a line wherever they are measured."""

_KINDS: dict[Task, str] = {
    "causal": "a causal model: use task generate, which continues text (--prompt TEXT)",
    "masked": "a masked model: use task fill, which fills in [MASK] (--prompt TEXT)",
    "classifier": "a classifier: use task classify, which labels the lines of a file (--task classify --file FILE)",
    "token_classifier": "a classifier of tokens: use task classify, which labels the words of a file's lines (--task "
    "classify --file FILE)",
    "question_answering": "a model that answers questions: in Python (load(FOLDER).model(tokens).logits); here use "
    "task encode, which gives vectors of the lines of a file (--task encode --file FILE --out vectors.npz)",
    "encoder": "an encoder without a head: use task encode, which gives vectors of the lines of a file (--task encode "
    "--file FILE --out vectors.npz)",
}
_VOCABULARY = "has no head over the vocabulary"
_LACKS = {
    "generate": "cannot continue text",
    "bench": "cannot continue text",
    "fill": "cannot fill in [MASK]",
    "classify": "has no classifier head; name the folder of a Hugging Face AlbertForSequenceClassification",
    "score": _VOCABULARY,
    "sweep": _VOCABULARY,
    "report": _VOCABULARY,
    "export": "is no run; copy its folder, or use save() of the model in Python",
}


def check_task(folder: ModelFolder, task: str, prompt: str = "") -> str:
    """What "auto" means for a model; another task is returned if the model can do it.

    Args:
        folder: of the model.
        task: as it was asked for.
        prompt: that came with it.

    Raises:
        UserError: it cannot; the message says what the model is and which task it can do.
    """
    able = TASKS[folder.task]
    if task == "auto":
        reads = not prompt or able[0] in READERS["prompt"]
        require(reads, f'prompt = "{prompt}": {folder.path} reads no prompt; it is {_KINDS[folder.task]}')
        return able[0]
    require(
        not prompt or folder.task not in STATE_TASKS,
        f'prompt = "{prompt}": {folder.path} reads none; it is {_KINDS[folder.task]}',
    )
    if task not in able:
        raise UserError(f"task = {task}: {folder.path} {_LACKS[task]}; it is {_KINDS[folder.task]}")
    return task
