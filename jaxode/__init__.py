"""jaxode: parameter-shared transformer language models run as neural ODEs over depth, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode import plugins as plugins
    from jaxode.calibration import Fit, calibrate, fit_landing
    from jaxode.config import (
        Config,
        DataConfig,
        DepthConfig,
        ModelConfig,
        ObjectiveConfig,
        OptimizerConfig,
        TrainConfig,
        UserError,
    )
    from jaxode.depth import Acceleration, Schedule, StateChange, StepError, integrate
    from jaxode.inference import (
        Confidence,
        Divergence,
        ExitGate,
        LoadedModel,
        Patience,
        classify_texts,
        classify_words,
        encode_texts,
        error_estimates,
        exit_early,
        exit_probabilities,
        generate,
        generate_batch,
        load,
        read_outs,
        score_texts,
        solve_budgets,
        warm_up,
    )
    from jaxode.inference import load as from_pretrained
    from jaxode.interop import Pretrained, save_pretrained
    from jaxode.model import Block, CausalLM, Encoder, MaskedLM, SequenceClassifier, TokenClassifier, make_model
    from jaxode.training import train

_HOMES = {
    "jaxode.calibration": ("Fit", "calibrate", "fit_landing"),
    "jaxode.config": (
        "Config",
        "DataConfig",
        "DepthConfig",
        "ModelConfig",
        "ObjectiveConfig",
        "OptimizerConfig",
        "TrainConfig",
        "UserError",
    ),
    "jaxode.depth": ("Acceleration", "Schedule", "StateChange", "StepError", "integrate"),
    "jaxode.inference": (
        "Confidence",
        "Divergence",
        "ExitGate",
        "LoadedModel",
        "Patience",
        "classify_texts",
        "classify_words",
        "encode_texts",
        "error_estimates",
        "exit_early",
        "exit_probabilities",
        "from_pretrained",
        "generate",
        "generate_batch",
        "load",
        "read_outs",
        "score_texts",
        "solve_budgets",
        "warm_up",
    ),
    "jaxode.interop": ("Pretrained", "save_pretrained"),
    "jaxode.model": ("Block", "CausalLM", "Encoder", "MaskedLM", "SequenceClassifier", "TokenClassifier", "make_model"),
    "jaxode.training": ("train",),
}
_ALIASES = {"from_pretrained": "load"}
"""Names that are kept for who knows them from other libraries."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
"""The one place of it: pyproject.toml, `--version`, cards and studies read it here."""
__all__ = [
    "Acceleration",
    "Block",
    "CausalLM",
    "Confidence",
    "Config",
    "DataConfig",
    "DepthConfig",
    "Divergence",
    "Encoder",
    "ExitGate",
    "Fit",
    "LoadedModel",
    "MaskedLM",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "Patience",
    "Pretrained",
    "Schedule",
    "SequenceClassifier",
    "StateChange",
    "StepError",
    "TokenClassifier",
    "TrainConfig",
    "UserError",
    "__version__",
    "calibrate",
    "classify_texts",
    "classify_words",
    "encode_texts",
    "error_estimates",
    "exit_early",
    "exit_probabilities",
    "fit_landing",
    "from_pretrained",
    "generate",
    "generate_batch",
    "integrate",
    "load",
    "make_model",
    "read_outs",
    "save_pretrained",
    "score_texts",
    "solve_budgets",
    "train",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import jaxode` is instant and touches no device."""
    if name == "plugins":
        return importlib.import_module("jaxode.plugins")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jaxode' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), _ALIASES.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
