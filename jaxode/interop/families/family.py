"""What a family of models is: config.json to ModelConfig and back, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxode.config import ModelConfig, UserError, require
from jaxode.config.fields import COUNT, HUGE
from jaxode.interop.tensor_table import Pair, TensorTable, kernel, scale


@dataclass(frozen=True)
class Fields:
    """A config.json whose fields are checked where they are read."""

    raw: Mapping[str, Any]
    source: str
    """The file, as errors name it."""
    names: frozenset[str] = frozenset()
    """Of the tensors beside it, for what config.json does not say."""

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number.

        Raises:
            UserError: none, or below `least`.
        """
        value = self._value(name, default)
        require(
            type(value) is int and least <= value <= COUNT.value,
            f"{self.source}: {name} = {value!r}: must be a whole number from {least} to {COUNT.value}",
        )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number.

        Raises:
            UserError: none.
        """
        value = self._value(name, default)
        require(
            type(value) in (int, float) and 0 < value <= HUGE,
            f"{self.source}: {name} = {value!r}: must be a positive number",
        )
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            UserError: neither.
        """
        value = self._value(name, default)
        require(type(value) is bool, f"{self.source}: {name} = {value!r}: must be true or false")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse a value of a field that changes what is computed; an absent one is as good as the first allowed.

        Raises:
            UserError: another value.
        """
        value = self.raw.get(name, allowed[0])
        require(
            any(type(value) is type(one) and value == one for one in allowed),
            f"{self.source}: {name} = {value!r}: only {' or '.join(map(repr, allowed))} is read",
        )

    def rotary_base(self, default: float) -> float:
        """Of rotary positions without scaling, where old and new files keep it.

        Raises:
            UserError: scaled positions.
        """
        nested = self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}
        require(isinstance(nested, Mapping), f"{self.source}: rope_parameters = {nested!r}: must be a table")
        kind = nested.get("rope_type", nested.get("type", "default"))
        require(kind == "default", f"{self.source}: rope_type = {kind!r}: only 'default' is read")
        if "rope_theta" in nested:
            return Fields(nested, self.source).number("rope_theta")
        return self.number("rope_theta", default)

    def model(self, **values: Any) -> ModelConfig:
        """The ModelConfig of these values; what it refuses is an error of this file.

        Raises:
            UserError: they do not fit together.
        """
        try:
            return ModelConfig(**values)
        except UserError as error:
            raise UserError(f"{self.source}: {error}") from None

    def _value(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        value = default if value is None else value
        require(value is not None, f"{self.source}: {name} is missing")
        return value


@dataclass(frozen=True)
class Family:
    """Public models of one form."""

    model_type: str
    """As config.json names them."""
    model: Callable[[Fields], ModelConfig]
    """What config.json says."""
    fields: Callable[[ModelConfig, Mapping[str, Any]], dict[str, Any]]
    """config.json of a model, on top of the one that it was read from."""
    table: Callable[[ModelConfig, Collection[str]], TensorTable]
    """Its tensors: names of theirs, whose names tell variants apart; of none to write a model."""


def llama_attention(ours: str, theirs: str, model: ModelConfig, *, gate: str = "") -> Iterator[Pair]:
    """Queries, keys and values apart, as in Llama's files; with `gate` that of the result as well, by this name."""
    queries, keys = model.heads * model.head_width, model.num_kv_heads * model.head_width
    parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys), *([(gate, queries)] if gate else [])]
    yield kernel(f"{ours}.qkv", *(f"{theirs}.{part}" for part, _ in parts), rows=tuple(rows for _, rows in parts))
    yield kernel(f"{ours}.output", f"{theirs}.o_proj")


def llama_feed_forward(ours: str, theirs: str) -> Iterator[Pair]:
    """Gate and up apart, as in Llama's files."""
    yield kernel(f"{ours}.inner", f"{theirs}.gate_proj", f"{theirs}.up_proj")
    yield kernel(f"{ours}.output", f"{theirs}.down_proj")


def scales(ours: str, theirs: str, names: Mapping[str, str]) -> Iterator[Pair]:
    """The factors of norms."""
    for own, name in names.items():
        yield scale(f"{ours}.{own}", f"{theirs}.{name}")
