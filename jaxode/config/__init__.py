"""Every knob of jaxode, and how it is read.

Nothing here imports jax, so ``--help`` is instant and a wrong value is refused before any device is touched.
"""

from jaxode.config.checks import UserError, require
from jaxode.config.data import DataConfig
from jaxode.config.entries import entry
from jaxode.config.fields import check_seed
from jaxode.config.hosts import HostsConfig
from jaxode.config.inference import InferConfig
from jaxode.config.mesh import InferMeshConfig, MeshConfig
from jaxode.config.model import DepthConfig, ModelConfig
from jaxode.config.objective import ObjectiveConfig, parse_counts
from jaxode.config.parts import AttentionConfig, ClockConfig, LoopConfig, SphereConfig
from jaxode.config.reading import (
    dotted,
    from_dict,
    from_toml,
    override,
    parse,
    parse_command,
    parse_fields,
    to_dict,
    to_toml,
)
from jaxode.config.study import StudyCommand, StudyConfig, StudySettings, VariantConfig
from jaxode.config.task import TaskConfig
from jaxode.config.training import Config, OptimizerConfig, TrainConfig

__all__ = [
    "AttentionConfig",
    "ClockConfig",
    "Config",
    "DataConfig",
    "DepthConfig",
    "HostsConfig",
    "InferConfig",
    "InferMeshConfig",
    "LoopConfig",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "SphereConfig",
    "StudyCommand",
    "StudyConfig",
    "StudySettings",
    "TaskConfig",
    "TrainConfig",
    "UserError",
    "VariantConfig",
    "check_seed",
    "dotted",
    "entry",
    "from_dict",
    "from_toml",
    "override",
    "parse",
    "parse_command",
    "parse_counts",
    "parse_fields",
    "require",
    "to_dict",
    "to_toml",
]
