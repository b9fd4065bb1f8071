"""Training on from a model that exists: its architecture, its tokenizer and its numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp

from jaxode.checkpoint import RunFolder
from jaxode.config import Config, DataConfig, DepthConfig, ModelConfig, UserError, require
from jaxode.config.parsing import parse_json
from jaxode.data import Batch, Tokenizer, byte_tokenizer
from jaxode.data.checksums import sealed, unsealed
from jaxode.data.pretrained_tokenizers import find_tokenizer
from jaxode.evaluation import Diverged, evaluate_states
from jaxode.evaluation.figures import replacing, writing
from jaxode.inference import LoadedModel, load
from jaxode.inference.loading.names import resolve
from jaxode.model import SequenceClassifier, make_model
from jaxode.model.parameters import Architecture, Parameters, check_fit, fingerprint, split, without_calibrations
from jaxode.training.trainable import FRESH

FREE = ("model.dropout", "model.steps", "model.conditioning", "model.clock.", "model.loop.streams")
"""What may differ from the model that a run begins with; of rotary positions the length as well."""

T = TypeVar("T")


@dataclass(frozen=True)
class Initial:
    """Where a run begins."""

    model: ModelConfig
    params: Parameters
    """float32; what the settings add to the model (`model.conditioning`) is fresh, and changes nothing at first."""
    tokenizer: Tokenizer
    own: ModelConfig
    """The model that was named, without what the settings add."""
    weights: Parameters
    """Its numbers, float32."""

    @property
    def fingerprint(self) -> str:
        """Of its numbers."""
        return fingerprint(self.weights)


def read_initial(config: Config) -> Initial:
    """The model that `config.init` names.

    Settings of `model` that stand at their defaults are those of the model; others must be the same, or be among
    `FREE`.

    Raises:
        UserError: no language model, a setting that contradicts it, another tokenizer, or weights that cannot be read.
    """
    name = config.init
    classifies = config.model.labels_texts
    folder = resolve(name)
    # of a masked ALBERT, the pooler that a head over the vocabulary has no use for
    pooled = config.model.head == "classifier" and folder.origin == "huggingface" and folder.task == "masked"
    loaded = load(name, "encoder" if pooled else None)
    labels = loaded.task in ("classifier", "token_classifier") and not classifies
    on = f', or set model.head = "{loaded.task}" and data.train to train it on labelled texts' if labels else ""
    require(
        loaded.task in ("causal", "masked", "encoder", *((config.model.head,) if classifies else ())),
        f"init = {name}: is a {loaded.task.replace('_', ' ')} model; train on from a language model or an encoder{on}",
    )
    require(
        not classifies or loaded.task == config.model.head or config.objective.resolved.teacher == "main",
        f'objective.teacher = "init": init = {name} is a {loaded.task} model and knows no label; begin with a '
        "classifier, or leave the teacher out",
    )
    base = _as_classifier(loaded, config.model) if classifies else loaded.config.model
    model = inherited(config.model, base, f"init = {name}")
    told = model.conditioning != loaded.config.model.conditioning
    require(
        not told or model.conditioning in ("time", "step"),
        f'model.conditioning = "{model.conditioning}": the model in init = {name} has '
        f'"{loaded.config.model.conditioning}", and would not begin as itself; "time" and "step" are added without a '
        "change",
    )
    _check_clock(model, loaded.config.model, name)
    own = {key: jnp.asarray(value, jnp.float32) for key, value in without_calibrations(loaded.params).items()}
    if classifies:
        # its head is made once the labels are known; of other labels than the model has it is fresh
        if base.labels != loaded.labels:
            own = {name: value for name, value in own.items() if not name.startswith("head.classifier.")}
        return Initial(model, {}, _tokenizer(config, loaded.tokenizer), base, own)
    _, fresh = split(make_model(model, seed=config.train.seed))
    added = {key: value for key, value in fresh.items() if key not in own and any(part in key for part in FRESH)}
    params = own | added
    check_fit(fresh, params, f"init = {name}", "the settings of model do not fit its weights; leave them out")
    params = {key: params[key] for key in fresh}
    return Initial(model, params, _tokenizer(config, loaded.tokenizer), loaded.config.model, own)


def _check_clock(model: ModelConfig, own: ModelConfig, name: str) -> None:
    """Refuse to read what a model was told in another way than it was trained to."""
    if own.conditioning == "none":
        return
    for part in ("unit", "shared", "per_pass", "anchored"):
        asked, have = getattr(model.clock, part), getattr(own.clock, part)
        require(
            asked == have,
            f"model.clock.{part} = {str(asked).lower()}: the model in init = {name} is told t and h with "
            f"{str(have).lower()}, and would not begin as itself; leave it out",
        )


def inherited(given: ModelConfig, own: ModelConfig, source: str) -> ModelConfig:
    """The settings of a model that exists, but for those of `FREE` that are given.

    Raises:
        UserError: a setting that stands at neither its default nor the model's value.
    """
    return _merged(given, own, ModelConfig(), source)


def _as_classifier(loaded: LoadedModel, asked: ModelConfig) -> ModelConfig:
    """What a model is with a head for labels: its own, or one that is asked for."""
    own = loaded.model
    known = {"problem_type": asked.problem_type, "labels": asked.labels}
    if loaded.task == asked.head and asked.labels in ((), loaded.labels):
        kept = own.problem_type if isinstance(own, SequenceClassifier) else asked.problem_type
        known = {"problem_type": kept, "labels": loaded.labels}
    return dataclasses.replace(loaded.config.model, head=asked.head, **known)


def with_labels(initial: Initial, model: ModelConfig, seed: int) -> Initial:
    """The same with a head for the labels of `model`: whatever the initial model has of it, and the rest fresh.

    Raises:
        UserError: the settings of model do not fit its weights.
    """
    _, fresh = split(make_model(model, seed=seed))
    own = {name: value for name, value in initial.weights.items() if name in fresh}
    added = [name for name in fresh if name not in own and not any(part in name for part in ("head.", *FRESH))]
    require(not added, f"init: the model has no {', '.join(added[:3])}; leave the settings of model out")
    params = {name: own.get(name, value) for name, value in fresh.items()}
    check_fit(fresh, params, "init", "the settings of model do not fit its weights; leave them out")
    return dataclasses.replace(initial, model=model, params=params)


def read_teacher(config: Config) -> Initial:
    """The same for a run that is continued: it must still be the model that the run began with.

    Raises:
        UserError: it cannot be read, or has other weights.
    """
    initial = read_initial(config)
    kept = RunFolder(Path(config.out)).init
    try:
        begun = unsealed(parse_json(kept.read_bytes()), ("fingerprint",))["fingerprint"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{kept}: cannot be read ({error}); copy it again") from None
    require(
        begun == initial.fingerprint,
        f"init = {config.init}: has other weights (fingerprint {initial.fingerprint}) than the run began with "
        f"({begun}), which teach it; put those back",
    )
    return initial


def check_teacher(teacher: tuple[Architecture, Parameters], name: str, batches: Iterable[Batch]) -> None:
    """Solve some text at full depth: what the teacher says must be finite.

    Raises:
        UserError: it is not.
    """
    try:
        evaluate_states(*teacher, batches, DepthConfig(), teacher)
    except Diverged as error:
        raise UserError(f"init = {name}: cannot teach: {error}") from None


def record(run: RunFolder, initial: Initial) -> None:
    """Keep in a run's folder which weights it began with.

    Raises:
        UserError: it cannot be written.
    """
    with writing(run.path, "which model the run began with"), replacing(run.init) as partial:
        partial.write_text(json.dumps(sealed({"fingerprint": initial.fingerprint})) + "\n", encoding="utf-8")


def _merged(given: T, own: T, default: T, source: str, prefix: str = "model") -> T:
    """The model's own settings, but for those that are given and free."""
    values = {}
    for field in dataclasses.fields(own):  # pyright: ignore[reportArgumentType]
        name, place = field.name, f"{prefix}.{field.name}"
        asked, have, plain = (getattr(one, name) for one in (given, own, default))
        if dataclasses.is_dataclass(have):
            values[name] = _merged(asked, have, plain, source, place)
            continue
        free = place.startswith(FREE) or (place == "model.length" and getattr(own, "positions", "") == "rotary")
        require(
            asked in (plain, have) or free,
            f"{place} = {_shown(asked)}: the model in {source} has {_shown(have)}; leave it out, or begin with another "
            "model",
        )
        values[name] = have if asked == plain else asked
    return dataclasses.replace(own, **values)  # pyright: ignore[reportArgumentType]


def _tokenizer(config: Config, own: Tokenizer | None) -> Tokenizer:
    """The model's own; another one that is named must be the same."""
    named = config.data.tokenizer
    if own is None:
        require(
            named != "bpe",
            f"init = {config.init}: holds no tokenizer; name the model's own with data.tokenizer",
        )
        return byte_tokenizer() if named == "bytes" else find_tokenizer(named)
    if named != "bpe":
        other = byte_tokenizer() if named == "bytes" else find_tokenizer(named)
        if other.fingerprint != own.fingerprint:
            raise UserError(
                f'data.tokenizer = "{named}" (fingerprint {other.fingerprint}): the model in init = {config.init} '
                f"reads with {own.name} (fingerprint {own.fingerprint}); leave it out"
            )
    size = config.data.vocab_size
    require(
        config.resume or size in (DataConfig().vocab_size, own.vocab_size),
        f"data.vocab_size = {size}: the model in init = {config.init} reads with {own.name}, which has "
        f"{own.vocab_size} tokens; leave it out, or begin with another model",
    )
    return own


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
