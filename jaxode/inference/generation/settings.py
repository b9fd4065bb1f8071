"""How texts are continued: every setting of generation, checked before anything compiles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.config.decoding import cache_rule
from jaxode.data import Tokenizer
from jaxode.inference.generation.cache import Layout, applications, resolved_cache
from jaxode.inference.generation.decoding import Decoder
from jaxode.inference.generation.prompts import is_whole
from jaxode.inference.generation.sampling import Sampling, Temperature, named_sampling
from jaxode.inference.generation.speculation import Speculation
from jaxode.inference.texts.token_ids import check_vocabulary
from jaxode.model import Transformer, plan
from jaxode.model.parameters import Architecture, Parameters

Context = Literal["slide", "window", "refuse"]
MOST_TOKENS = 2**31 - 1
"""What the compiled functions can count to."""


@dataclass(frozen=True)
class Settings:
    """Everything that `generate_batch` takes but its prompts and seeds; described there.

    Raises:
        UserError: a value of another type or out of range.
    """

    depth: DepthConfig | None = None
    prefill_depth: DepthConfig | None = None
    max_new_tokens: int = 128
    sampling: Sampling | str | None = None
    document_mask: bool = False
    context: str = "slide"
    cache_share: int = 1
    cache: str = "auto"
    speculation: Speculation | None = None
    prefix: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.sampling, str):
            object.__setattr__(self, "sampling", named_sampling(self.sampling))
        for name, kind, example in (
            ("depth", DepthConfig, "DepthConfig(steps=4)"),
            ("prefill_depth", DepthConfig, "DepthConfig(steps=4)"),
            ("sampling", Sampling, "Temperature(0.8)"),
            ("speculation", Speculation, "Speculation((DepthConfig(steps=4),))"),
        ):
            value = getattr(self, name)
            # a class has its objects' attributes
            fits = value is None or (isinstance(value, kind) and not isinstance(value, type))
            require(fits, f"{name} = {value!r}: must be None or a {kind.__name__}, such as {example}")
        for name in ("max_new_tokens", "cache_share"):
            value = getattr(self, name)
            require(is_whole(value), f"{name} = {value!r}: must be a whole number")
        new = self.max_new_tokens
        require(new >= 1, f"max_new_tokens = {new}: must be at least 1")
        require(new <= MOST_TOKENS, f"max_new_tokens = {new}: must be at most {MOST_TOKENS}")
        for name in ("document_mask", "prefix"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} = {value!r}: must be True or False")
        require(
            self.context in get_args(Context), f'context = "{self.context}": allowed are {", ".join(get_args(Context))}'
        )
        require(isinstance(self.cache, str), f'cache = {self.cache!r}: must be a text, such as "loop"')
        cache_rule(self.cache, int(self.cache_share))
        shared = f"cache_share = {self.cache_share}" if self.cache_share != 1 else f'cache = "{self.cache}"'
        require(
            self.speculation is None or (self.cache_share == 1 and self.cache in ("auto", "loop")),
            f"{shared} with speculation: drafts are checked many tokens at once, which then "
            "read other slots than one by one; leave one of them out",
        )

    def resolved(self, model: Transformer) -> Settings:
        """The same with solvers named, as this model holds calibrations, and the cache, as it was made for.

        Drafts are told apart as they were given.

        Raises:
            UserError: an unknown solver, or drafts for a model that was made for slots that loops share.
        """
        cache = resolved_cache(model.config, self.cache, int(self.cache_share))
        return dataclasses.replace(
            self, depth=model.resolve(self.solve), prefill_depth=model.resolve(self.prefill_solve), cache=cache
        )

    @property
    def solve(self) -> DepthConfig:
        """The depth of every new token."""
        return self.depth if self.depth is not None else DepthConfig()

    @property
    def prefill_solve(self) -> DepthConfig:
        """The depth of the prompts."""
        return self.prefill_depth if self.prefill_depth is not None else self.solve

    def decoder(self, architecture: Architecture, params: Parameters, tokenizer: Tokenizer) -> Decoder:
        """What is static in decoding with these settings.

        Raises:
            UserError: a masked model, another model's tokenizer, a prefix for a model that has none, or a depth that
                does not fit the model's layout.
        """
        model: ModelConfig = architecture.bind(params).config
        require(
            model.kind == "causal",
            'model.kind = "masked": a masked model fills in [MASK] and does not generate; use task fill',
        )
        require(
            not self.prefix or model.attention.prefix,
            "prefix = True with model.attention.prefix = false: this model reads its prompts from left to right alone; "
            "leave it out",
        )
        check_vocabulary(model, tokenizer)
        drafts = self.speculation.depths if self.speculation is not None else ()
        for depth in (self.solve, self.prefill_solve, *drafts):
            plan(model, depth)
            applications(model, depth)
        return Decoder(
            architecture,
            self.solve,
            Layout(self.solve, int(self.cache_share), self.cache),
            Temperature() if self.sampling is None or isinstance(self.sampling, str) else self.sampling,
            tokenizer.vocab_size,
            tokenizer.end_id,
            model.length,
            self.prefix,
        )

    def check_length(self, model: ModelConfig, tokens: int) -> None:
        """Refuse a prompt of so many tokens where the model cannot read it and what follows.

        Raises:
            UserError: as `context` says.
        """
        new = self.max_new_tokens
        require(
            self.context == "window" or tokens <= model.length,
            f"the prompt has {tokens} tokens, more than the {model.length} that the model reads at once: shorten it, "
            'or set context to "window"',
        )
        require(
            self.context != "refuse" or tokens + new <= model.length,
            f"{tokens} tokens of the prompt and max_new_tokens = {new} exceed the {model.length} that the model reads "
            'at once: ask for fewer, or set context to "slide"',
        )
        require(
            model.positions != "learned" or tokens + new <= model.length,
            f"{tokens} tokens of the prompt and max_new_tokens = {new} exceed the {model.length} positions that this "
            "model has learned: shorten the prompt, or ask for fewer",
        )

    def longest_prompt(self, model: ModelConfig) -> int | None:
        """Tokens that a prompt may have; None where there is no bound."""
        if self.context == "refuse" or model.positions == "learned":
            return model.length - self.max_new_tokens
        return None if self.context == "window" else model.length
