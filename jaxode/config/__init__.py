"""Every knob of jaxode, and how it is read.

Nothing here imports jax, so ``--help`` is instant and a wrong value is refused before any device is touched.
"""

from jaxode.config.knobs import (
    Config,
    DataConfig,
    DepthConfig,
    InferConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    UserError,
    require,
)
from jaxode.config.reading import from_dict, from_toml, parse, to_dict

__all__ = [
    "Config",
    "DataConfig",
    "DepthConfig",
    "InferConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TrainConfig",
    "UserError",
    "from_dict",
    "from_toml",
    "parse",
    "require",
    "to_dict",
]
