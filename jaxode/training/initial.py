"""Training on from a model that exists: its architecture, its tokenizer and its numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import jax.numpy as jnp

from jaxode.config import Config, ModelConfig, UserError, require
from jaxode.data import Tokenizer, byte_tokenizer
from jaxode.data.tokenizers import from_pretrained
from jaxode.inference import load
from jaxode.model import make_model
from jaxode.model.parameters import Parameters, check_fit, split, without_calibrations

FREE = ("model.dropout", "model.steps", "model.conditioning", "model.clock.")
"""What may differ from the model that a run begins with; of rotary positions the length as well."""

T = TypeVar("T")


@dataclass(frozen=True)
class Initial:
    """Where a run begins."""

    model: ModelConfig
    params: Parameters
    """float32; what the settings add to the model (`model.conditioning`) is fresh, and changes nothing at first."""
    tokenizer: Tokenizer


def read_initial(config: Config) -> Initial:
    """The model that `config.init` names.

    Settings of `model` that stand at their defaults are those of the model; others must be the same, or be among
    `FREE`.

    Raises:
        UserError: no language model, a setting that contradicts it, another tokenizer, or weights that cannot be read.
    """
    name = config.init
    loaded = load(name)
    require(
        loaded.task in ("causal", "masked"),
        f"init = {name}: is {'an' if loaded.task == 'encoder' else 'a'} {loaded.task}, which predicts no tokens: train "
        "on from a language model (of a Hugging Face ALBERT the folder of an AlbertForMaskedLM)",
    )
    model = _merged(config.model, loaded.config.model, ModelConfig(), f"init = {name}")
    told = model.conditioning != loaded.config.model.conditioning
    require(
        not told or model.conditioning in ("time", "step"),
        f'model.conditioning = "{model.conditioning}": the model in init = {name} has '
        f'"{loaded.config.model.conditioning}", and would not begin as itself; "time" and "step" are added without a '
        "change",
    )
    own = {key: jnp.asarray(value, jnp.float32) for key, value in without_calibrations(loaded.params).items()}
    _, fresh = split(make_model(model, seed=config.train.seed))
    added = {key: value for key, value in fresh.items() if key not in own and told}
    params = own | added
    check_fit(fresh, params, f"init = {name}", "the settings of model do not fit its weights; leave them out")
    return Initial(model, {key: params[key] for key in fresh}, _tokenizer(config, loaded.tokenizer))


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
        return byte_tokenizer() if named == "bytes" else from_pretrained(named)
    if named != "bpe":
        other = byte_tokenizer() if named == "bytes" else from_pretrained(named)
        if other.fingerprint != own.fingerprint:
            raise UserError(
                f'data.tokenizer = "{named}" (fingerprint {other.fingerprint}): the model in init = {config.init} '
                f"reads with {own.name} (fingerprint {own.fingerprint}); leave it out"
            )
    return own


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
