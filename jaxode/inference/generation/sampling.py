"""From logits to a token: small frozen dataclasses, static under `jax.jit`, each from logits to logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxode.config import require
from jaxode.config.decoding import check_penalty
from jaxode.config.fields import fit, hints
from jaxode.config.named_numbers import named_numbers
from jaxode.plugins import Table
from jaxode.types import Key

Row = Float[Array, "*B V"]
Seen = Bool[Array, "*B V"]


@runtime_checkable
class Sampling(Protocol):
    """What a distribution over the next token becomes; log-probabilities of tokens it excludes are -inf."""

    @property
    def remembers(self) -> bool:
        """Whether it reads `seen`."""
        ...

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """Logits [.., V] to logits; `seen`, [.., V], marks the tokens of the text so far."""
        ...


@dataclass(frozen=True)
class _Forgetful:
    """Reads the logits alone."""

    @property
    def remembers(self) -> bool:
        """It does not read `seen`."""
        return False


@dataclass(frozen=True)
class Greedy(_Forgetful):
    """The most likely token; the first of equals."""

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """0 for the argmax, -inf for the rest."""
        best = jnp.argmax(logits, axis=-1, keepdims=True)
        return jnp.where(jnp.arange(logits.shape[-1]) == best, 0.0, -jnp.inf)


@dataclass(frozen=True)
class Temperature(_Forgetful):
    """softmax(z / value): below 1 sharper than the model, above 1 flatter.

    Raises:
        UserError: a value that is not positive, or that float32 does not hold.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        _fit(self, "value", "temperature")
        require(self.value > 0, f"temperature = {self.value}: must be positive; Greedy() takes the most likely token")

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """Divide what lies below the maximum, which changes no probability: nothing overflows but to -inf."""
        return (logits - jnp.max(logits, axis=-1, keepdims=True)) / self.value


@dataclass(frozen=True)
class TopK(_Forgetful):
    """The k most likely tokens, and what is exactly as likely as the last of them (Fan et al. 2018).

    Raises:
        UserError: a k below 1.
    """

    k: int

    def __post_init__(self) -> None:
        _fit(self, "k", "top_k")
        require(self.k >= 1, f"top_k = {self.k}: must be at least 1")

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """Exclude all below the k-th."""
        last = jax.lax.top_k(logits, min(self.k, logits.shape[-1]))[0][..., -1:]
        return jnp.where(logits >= last, logits, -jnp.inf)


@dataclass(frozen=True)
class TopP(_Forgetful):
    """The fewest most likely tokens that hold probability p together (nucleus sampling, Holtzman et al. 2020).

    Raises:
        UserError: a p outside (0, 1].
    """

    p: float

    def __post_init__(self) -> None:
        _fit(self, "p", "top_p")
        require(0 < self.p <= 1, f"top_p = {self.p}: must lie in (0, 1]")

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """Exclude a token where those before it hold p already; equals of the last one stay."""
        falling = -jnp.sort(-logits, axis=-1)
        held = jnp.cumsum(jax.nn.softmax(falling, axis=-1), axis=-1)
        # the first is always in
        inside = jnp.concatenate([jnp.ones_like(held[..., :1], bool), held[..., :-1] < self.p], axis=-1)
        last = jnp.min(jnp.where(inside, falling, jnp.inf), axis=-1, keepdims=True)
        return jnp.where(logits >= last, logits, -jnp.inf)


@dataclass(frozen=True)
class MinP(_Forgetful):
    """Tokens at least p times as likely as the most likely one (Nguyen et al. 2024, arXiv 2407.01082).

    Raises:
        UserError: a p outside [0, 1].
    """

    p: float

    def __post_init__(self) -> None:
        _fit(self, "p", "min_p")
        require(0 <= self.p <= 1, f"min_p = {self.p}: must lie in [0, 1]")

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """Exclude what is less likely."""
        if self.p == 0:
            return logits
        least = jnp.max(logits, axis=-1, keepdims=True) + math.log(self.p)
        return jnp.where(logits >= least, logits, -jnp.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide the logits of tokens of the text so far where they are positive, else multiply (Keskar et al. 2019).

    Raises:
        UserError: a factor outside [1e-30, 1e30].
    """

    factor: float

    def __post_init__(self) -> None:
        _fit(self, "factor", "repetition_penalty")
        check_penalty(self.factor)

    @property
    def remembers(self) -> bool:
        """It reads `seen`."""
        return True

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """Change the logits of what is seen."""
        assert seen is not None
        return jnp.where(seen, jnp.where(logits > 0, logits / self.factor, logits * self.factor), logits)


@dataclass(frozen=True)
class Chain:
    """One method after the other."""

    methods: tuple[Sampling, ...]

    @property
    def remembers(self) -> bool:
        """Whether any reads `seen`."""
        return any(method.remembers for method in self.methods)

    def __call__(self, logits: Row, seen: Seen | None) -> Row:
        """In order."""
        return reduce(lambda left, method: method(left, seen), self.methods, logits)


def _fit(method: Any, field: str, name: str) -> None:
    """Give a field the type of its hint, as a configuration's have; errors call it `name`, as the flag is called."""
    object.__setattr__(method, field, fit(hints(type(method))[field], getattr(method, field), name))


Maker = Callable[..., Sampling]


def _fit_method(name: str, part: Any) -> Maker:
    """A plug-in's: a class as those above are."""
    make: Any = part
    require(
        isinstance(part, type) and dataclasses.is_dataclass(part) and _is_static(part),
        f"{part!r}: must be a class under @dataclass(frozen=True), whose objects are static under jax.jit",
    )
    lacking = [] if hasattr(part, "remembers") else ["remembers"]
    lacking += [] if any("__call__" in vars(base) for base in part.__mro__) else ["__call__"]
    require(not lacking, f"{part.__name__} lacks {', '.join(lacking)}; jaxode.inference.MinP shows what a method has")
    needed = [field.name for field in dataclasses.fields(part) if _needs_value(field)]
    require(
        len(needed) <= 1,
        f"{part.__name__}: has the fields {', '.join(needed)} without a default; one number can follow its name",
    )
    return make


def _is_static(kind: Any) -> bool:
    """Whether equal objects are one to JAX."""
    return kind.__dataclass_params__.frozen and kind.__dataclass_params__.eq


def _needs_value(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


METHODS = Table[Maker](
    "sampling",
    "sampling",
    {
        "greedy": Greedy,
        "temperature": Temperature,
        "top_k": TopK,
        "top_p": TopP,
        "min_p": MinP,
        "repetition_penalty": RepetitionPenalty,
    },
    _fit_method,
)
"""By name."""


def named_sampling(text: str) -> Sampling:
    """Methods by name, each with its number, in order: "temperature:0.8,top_k:40".

    Raises:
        UserError: no name or an unknown one, or a number that is missing, not taken or out of range.
    """
    methods = _named(text)
    require(bool(methods), f'sampling = "{text}": must be names, such as "temperature:0.8,top_k:40"')
    return methods[0] if len(methods) == 1 else Chain(tuple(methods))


def _named(text: str) -> list[Sampling]:
    methods: list[Sampling] = []
    for name, number in named_numbers("sampling", text, "temperature:0.8,top_k:40"):
        kind: Any = METHODS.find(name, text)
        fields = [field for field in dataclasses.fields(kind) if field.init]
        require(number is None or bool(fields), f'sampling = "{text}": {name} takes no number; write "{name}" alone')
        require(
            number is not None or not any(map(_needs_value, fields)),
            f'sampling = "{text}": {name} takes a number, as "{name}:{"40" if name == "top_k" else "0.9"}"',
        )
        methods.append(kind() if number is None else kind(number))
    return methods


def make_sampling(
    temperature: float = 1.0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    further: str = "",
) -> Sampling:
    """The methods that change something, in this order: penalty, temperature (0: `Greedy`), top-k, top-p, min-p, and
    then `further` ones by name, as `named_sampling` takes them.

    Raises:
        UserError: a value outside its range.
    """
    temperature, top_k = fit(float, temperature, "temperature"), fit(int, top_k, "top_k")
    require(temperature >= 0, f"temperature = {temperature}: must be at least 0 (0 takes the most likely token)")
    require(top_k >= 0, f"top_k = {top_k}: must be at least 0 (0 keeps all)")
    methods: list[Sampling] = []
    if repetition_penalty != 1.0:
        methods.append(RepetitionPenalty(repetition_penalty))
    methods.append(Temperature(temperature) if temperature else Greedy())
    if top_k:
        methods.append(TopK(top_k))
    narrow, least = TopP(top_p), MinP(min_p)  # refuse what is out of range, used or not
    methods += [narrow] if top_p < 1 else []
    methods += [least] if min_p > 0 else []
    methods += _named(further)
    if not temperature:
        # nothing is left to narrow
        methods = [method for method in methods if isinstance(method, RepetitionPenalty | Greedy)]
    return methods[0] if len(methods) == 1 else Chain(tuple(methods))


def is_greedy(sampling: Sampling) -> bool:
    """Whether it leaves one token, so that there is nothing to draw."""
    return isinstance(sampling, Greedy) or (isinstance(sampling, Chain) and any(map(is_greedy, sampling.methods)))


def log_probabilities(sampling: Sampling, logits: Row, seen: Seen | None = None) -> Row:
    """Log p of the distribution that `sampling` draws from, float32."""
    return jax.nn.log_softmax(sampling(logits.astype(jnp.float32), seen), axis=-1)


def draw(
    sampling: Sampling, logits: Float[Array, "B V"], keys: Key, seen: Bool[Array, "B V"] | None = None
) -> Int[Array, " B"]:
    """One token a row, with a key [B] of each row's own: what a row draws does not depend on its neighbours."""
    logits = sampling(logits.astype(jnp.float32), seen)
    return jnp.argmax(logits, axis=-1) if is_greedy(sampling) else jax.vmap(jax.random.categorical)(keys, logits)
