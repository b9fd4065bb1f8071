"""A trained model at work: decoding, fill-mask, texts scored and labelled in batches, adaptive depth, a token's cost.

Names load on first use, so that `python -m jaxode.inference --help` imports no jax. No file here is called like one of
them: importing it would put the module in the place of the name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.inference.adaptive import AdaptiveOutput, exit_early, solve_budgets
    from jaxode.inference.batch_pass import Throughput
    from jaxode.inference.classification import TextClass, TextClasses, classify_texts
    from jaxode.inference.exits import Confidence, Divergence
    from jaxode.inference.fill_mask import Candidate, FilledText, MaskFill, fill
    from jaxode.inference.generation import Generation, generate, generate_batch, warm_up
    from jaxode.inference.library import load
    from jaxode.inference.readouts import ErrorEstimates, error_estimates, read_outs
    from jaxode.inference.sampling import (
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
    from jaxode.inference.scoring import TextScore, TextScores, score_texts
    from jaxode.inference.speculation import Speculation
    from jaxode.inference.streaming import TextStream

_HOMES = {
    "adaptive": ("AdaptiveOutput", "exit_early", "solve_budgets"),
    "batch_pass": ("Throughput",),
    "classification": ("TextClass", "TextClasses", "classify_texts"),
    "exits": ("Confidence", "Divergence"),
    "fill_mask": ("Candidate", "FilledText", "MaskFill", "fill"),
    "generation": ("Generation", "generate", "generate_batch", "warm_up"),
    "library": ("load",),
    "readouts": ("ErrorEstimates", "error_estimates", "read_outs"),
    "sampling": (
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
    "speculation": ("Speculation",),
    "scoring": ("TextScore", "TextScores", "score_texts"),
    "streaming": ("TextStream",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptiveOutput",
    "Candidate",
    "Chain",
    "Confidence",
    "Divergence",
    "ErrorEstimates",
    "FilledText",
    "Generation",
    "Greedy",
    "MaskFill",
    "MinP",
    "RepetitionPenalty",
    "Sampling",
    "Speculation",
    "Temperature",
    "TextClass",
    "TextClasses",
    "TextScore",
    "TextScores",
    "TextStream",
    "Throughput",
    "TopK",
    "TopP",
    "classify_texts",
    "error_estimates",
    "exit_early",
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
