"""A trained model at work: decoding, fill-mask, texts scored and labelled in batches, adaptive depth, a token's cost.

Names load on first use, so that `python -m jaxode.inference --help` imports no jax. No file or folder here is
called like one of them: importing it would put the module in the place of the name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.inference.adaptive.exits import Confidence, Divergence, ExitGate, Patience
    from jaxode.inference.adaptive.readouts import ErrorEstimates, error_estimates, exit_probabilities, read_outs
    from jaxode.inference.adaptive.solves import AdaptiveOutput, exit_early, solve_budgets
    from jaxode.inference.generation.cache import cache_bytes_per_token
    from jaxode.inference.generation.generate import Generation, generate, generate_batch, warm_up
    from jaxode.inference.generation.sampling import (
        Chain,
        Greedy,
        MinP,
        RepetitionPenalty,
        Sampling,
        Temperature,
        TopK,
        TopP,
        make_sampling,
    )
    from jaxode.inference.generation.speculation import Speculation
    from jaxode.inference.generation.streaming import TextStream
    from jaxode.inference.loading.loaded_model import LoadedModel, load
    from jaxode.inference.texts.batch_pass import Throughput
    from jaxode.inference.texts.classification import TextClass, TextClasses, classify_texts
    from jaxode.inference.texts.encoding import TextVectors, encode_texts
    from jaxode.inference.texts.fill_mask import Candidate, FilledText, MaskFill, fill
    from jaxode.inference.texts.scoring import TextScore, TextScores, score_texts
    from jaxode.inference.texts.tagging import WordLabels, classify_words

_HOMES = {
    "adaptive.solves": ("AdaptiveOutput", "exit_early", "solve_budgets"),
    "texts.batch_pass": ("Throughput",),
    "texts.classification": ("TextClass", "TextClasses", "classify_texts"),
    "adaptive.exits": ("Confidence", "Divergence", "ExitGate", "Patience"),
    "texts.encoding": ("TextVectors", "encode_texts"),
    "texts.tagging": ("WordLabels", "classify_words"),
    "texts.fill_mask": ("Candidate", "FilledText", "MaskFill", "fill"),
    "generation.cache": ("cache_bytes_per_token",),
    "generation.generate": ("Generation", "generate", "generate_batch", "warm_up"),
    "loading.loaded_model": ("LoadedModel", "load"),
    "adaptive.readouts": ("ErrorEstimates", "error_estimates", "exit_probabilities", "read_outs"),
    "generation.sampling": (
        "Chain",
        "Greedy",
        "MinP",
        "RepetitionPenalty",
        "Sampling",
        "Temperature",
        "TopK",
        "TopP",
        "make_sampling",
    ),
    "generation.speculation": ("Speculation",),
    "texts.scoring": ("TextScore", "TextScores", "score_texts"),
    "generation.streaming": ("TextStream",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptiveOutput",
    "Candidate",
    "Chain",
    "Confidence",
    "Divergence",
    "ErrorEstimates",
    "ExitGate",
    "FilledText",
    "Generation",
    "Greedy",
    "LoadedModel",
    "MaskFill",
    "MinP",
    "Patience",
    "RepetitionPenalty",
    "Sampling",
    "Speculation",
    "Temperature",
    "TextClass",
    "TextClasses",
    "TextScore",
    "TextScores",
    "TextStream",
    "TextVectors",
    "Throughput",
    "TopK",
    "TopP",
    "WordLabels",
    "cache_bytes_per_token",
    "classify_texts",
    "classify_words",
    "encode_texts",
    "error_estimates",
    "exit_early",
    "exit_probabilities",
    "fill",
    "generate",
    "generate_batch",
    "load",
    "make_sampling",
    "read_outs",
    "score_texts",
    "solve_budgets",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"jaxode.inference.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
