"""Cases of the references' tests: families, tokens, and tensors whose branches say nothing."""

import math

import numpy as np
import pytest

from . import huginn, loopformer, nanbeige, ouro, retrofit, retrofit_olmo

FAMILIES = [ouro, nanbeige, huginn, retrofit, retrofit_olmo, loopformer]
FRAMED = [huginn, retrofit, retrofit_olmo]  # prelude, core, coda
TURNING = [ouro, nanbeige, huginn, retrofit, retrofit_olmo]
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
framed = pytest.mark.parametrize("family", FRAMED, ids=lambda family: family.__name__.rpartition(".")[2])
turning = pytest.mark.parametrize("family", TURNING, ids=lambda family: family.__name__.rpartition(".")[2])
# what ends a branch
OUTPUTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.proj.weight", "c_proj.weight")


def batch(config, length=7, seed=0):
    """Two rows of token ids."""
    return np.random.default_rng(seed).integers(0, config["vocab_size"], (2, length))


def silent(tensors):
    """The same tensors, with every branch ending in zeros."""
    return {name: 0 * value if name.endswith(OUTPUTS) else value for name, value in tensors.items()}


def rms(x, weight, eps):
    """A norm written once more."""
    return np.array([[v / math.sqrt(sum(v * v) / len(v) + eps) for v in row] for row in x]) * weight
