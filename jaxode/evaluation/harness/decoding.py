"""How a task of the harness wants its answers continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]

from jaxode.config import UserError, require
from jaxode.inference.generation.sampling import Chain, Greedy, Sampling, Temperature, TopK, TopP


@dataclass(frozen=True)
class Decoding:
    """How a task wants its answers."""

    until: tuple[str, ...]
    """Texts that end an answer, and do not belong to it."""
    new_tokens: int
    sampling: Sampling

    @classmethod
    def read(cls, given: Mapping[str, Any], most: int, length: int) -> Decoding:
        """From a task's generation_kwargs.

        Raises:
            UserError: a setting that does not exist here, or tokens that leave no room for a context.
        """
        try:
            settings = dict(normalize_gen_kwargs(dict(given), most))
        except (TypeError, ValueError) as error:
            raise UserError(f"generation_kwargs {dict(given)}: {error}") from None
        new_tokens, until = settings.pop("max_gen_toks"), settings.pop("until")
        require(all(isinstance(text, str) for text in until), f"generation_kwargs until = {until}: must be texts")
        sampled = settings.pop("do_sample")
        value = settings.pop("temperature", 1.0 if sampled else 0.0)
        top_k, top_p = settings.pop("top_k", None), settings.pop("top_p", None)
        for name, number in (("temperature", value), ("top_k", top_k), ("top_p", top_p)):
            require(
                number is None or (isinstance(number, int | float) and not isinstance(number, bool)),
                f"generation_kwargs {name} = {number!r}: must be a number",
            )
        for name, other in settings.items():
            raise UserError(
                f"generation_kwargs {name} = {other!r}: there is no such setting here; allowed are until, "
                "max_gen_toks, do_sample, temperature, top_k, top_p"
            )
        require(
            0 < new_tokens < length,
            f"max_gen_toks = {new_tokens}: must be at least 1 and leave room for a context in the {length} tokens that "
            "the model reads",
        )
        if not sampled or float(value) == 0:
            return cls(tuple(filter(None, until)), new_tokens, Greedy())
        methods: list[Sampling] = [Temperature(float(value))]
        methods += [TopK(int(top_k))] if top_k else []
        methods += [TopP(float(top_p))] if top_p is not None else []
        return cls(tuple(filter(None, until)), new_tokens, Chain(tuple(methods)))
