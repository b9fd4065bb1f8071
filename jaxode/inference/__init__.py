"""A trained model at work: decoding, fill-mask, adaptive depth, and what a token costs."""

from jaxode.inference.adaptive import AdaptiveOutput, exit_early, solve_budgets
from jaxode.inference.exits import Confidence, Divergence
from jaxode.inference.fill_mask import Candidate, FilledText, MaskFill, fill
from jaxode.inference.generate import Generation, generate
from jaxode.inference.library import load
from jaxode.inference.read_outs import ErrorEstimates, error_estimates, read_outs
from jaxode.inference.sampling import Greedy, Sampling, Temperature, make_sampling
from jaxode.inference.streaming import TextStream

__all__ = [
    "AdaptiveOutput",
    "Candidate",
    "Confidence",
    "Divergence",
    "ErrorEstimates",
    "FilledText",
    "Generation",
    "Greedy",
    "MaskFill",
    "Sampling",
    "Temperature",
    "TextStream",
    "error_estimates",
    "exit_early",
    "fill",
    "generate",
    "load",
    "make_sampling",
    "read_outs",
    "solve_budgets",
]
