"""The config of a run: every field with its type and default, and how it is read. Imports neither JAX nor data."""

from lit_jax.config.choices import CHOICES
from lit_jax.config.default import as_config_dict, default_config
from lit_jax.config.differences import FREE, OF_SCHEDULE, differences
from lit_jax.config.fields import FIELDS, DataConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from lit_jax.config.names import current_names
from lit_jax.config.read import NEEDLESS, read_config, read_stored

__all__ = [
    "CHOICES",
    "FIELDS",
    "FREE",
    "NEEDLESS",
    "OF_SCHEDULE",
    "DataConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "as_config_dict",
    "current_names",
    "default_config",
    "differences",
    "read_config",
    "read_stored",
]
