"""A trained model at work: decoding, fill-mask, and what a token costs."""

from jaxode.inference.fill_mask import Candidate, FilledText, MaskFill, fill
from jaxode.inference.generate import Generation, generate
from jaxode.inference.sampling import Greedy, Sampling, Temperature, make_sampling
from jaxode.inference.streaming import TextStream

__all__ = [
    "Candidate",
    "FilledText",
    "Generation",
    "Greedy",
    "MaskFill",
    "Sampling",
    "Temperature",
    "TextStream",
    "fill",
    "generate",
    "make_sampling",
]
