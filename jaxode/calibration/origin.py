"""What a calibration was made for: it holds for nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from jaxode.config import ModelConfig
from jaxode.data import Tokenizer
from jaxode.model.parameters import fingerprint


@dataclass(frozen=True)
class Origin:
    """Model, tokenizer and weights; the last two by fingerprint."""

    model: dict[str, Any]
    tokenizer: str
    weights: str

    def __post_init__(self) -> None:
        # as JSON gives it back, with lists for tuples
        object.__setattr__(self, "model", json.loads(json.dumps(self.model)))

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Tokenizer, params: Mapping[str, Any]) -> Origin:
        """Of a model at hand."""
        return cls(dataclasses.asdict(model), tokenizer.fingerprint, fingerprint(params))

    def difference(self, other: Origin) -> str:
        """What this was made for and `other` has not, in words; empty where they agree.

        A field that is younger than a file had its default then, as in an older config.toml; but for the head, which
        the names of the weights tell.
        """
        defaults = Origin(dataclasses.asdict(ModelConfig()), "", "").model
        defaults["head"] = other.model.get("head")
        own = flatten_dict(defaults, sep=".") | flatten_dict(self.model, sep=".")
        for name, value in flatten_dict(other.model, sep=".").items():
            if own[name] != value:
                return f"model.{name} = {own[name]!r}, the model at hand has {value!r}"
        if self.tokenizer != other.tokenizer:
            return f"another tokenizer (fingerprint {self.tokenizer}, at hand {other.tokenizer})"
        if self.weights != other.weights:
            return f"other weights (fingerprint {self.weights}, at hand {other.weights})"
        return ""
