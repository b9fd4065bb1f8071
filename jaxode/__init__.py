"""jaxode: parameter-shared transformer language models run as neural ODEs over depth, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.calibration import calibrate
    from jaxode.config import Config, DataConfig, DepthConfig, ModelConfig, OptimizerConfig, TrainConfig, UserError
    from jaxode.depth import Schedule, integrate
    from jaxode.interop import Pretrained, from_pretrained, save_pretrained
    from jaxode.model import Block, CausalLM, Encoder, MaskedLM, SequenceClassifier, make_model

_HOMES = {
    "jaxode.calibration": ("calibrate",),
    "jaxode.config": (
        "Config",
        "DataConfig",
        "DepthConfig",
        "ModelConfig",
        "OptimizerConfig",
        "TrainConfig",
        "UserError",
    ),
    "jaxode.depth": ("Schedule", "integrate"),
    "jaxode.interop": ("Pretrained", "from_pretrained", "save_pretrained"),
    "jaxode.model": ("Block", "CausalLM", "Encoder", "MaskedLM", "SequenceClassifier", "make_model"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "Block",
    "CausalLM",
    "Config",
    "DataConfig",
    "DepthConfig",
    "Encoder",
    "MaskedLM",
    "ModelConfig",
    "OptimizerConfig",
    "Pretrained",
    "Schedule",
    "SequenceClassifier",
    "TrainConfig",
    "UserError",
    "__version__",
    "calibrate",
    "from_pretrained",
    "integrate",
    "make_model",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import jaxode` is instant and touches no device."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jaxode' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
