"""A run that starts from all weights of a dual encoder: towers, heads, logit scale and bias (`config.init_from`)."""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from lit_jax.config import TrainConfig
from lit_jax.config.fields import FIELDS
from lit_jax.hf import hub, kinds, load
from lit_jax.hf.load import Loaded
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.models.layers.spec import Compute
from lit_jax.train.build import bias_of

log = logging.getLogger(__name__)

# Fields of a config that describe a model; they are not used here, since the model comes with its own.
_UNUSED = (
    *("vision", "text", "vision_config", "text_config", "projection_dim", "logit_scale_init"),
    *("vision_pooling", "text_pooling", "vision_head", "vision_head_config", "text_head", "text_head_config"),
)


def folder_of(config: TrainConfig) -> Path:
    """The folder that `config.init_from` names. Raises WeightError."""
    return hub.find(config.init_from, allow_pickle=config.model.allow_pickle)


def read(config: TrainConfig, compute: Compute) -> Loaded:
    """The model that the run starts from, with params on the host. Raises WeightError and ConfigError as `load` does.

    For the sigmoid loss, a model without a logit bias gets the config's. The softmax loss does not use the bias: a
    SigLIP, which has a tensor for it, keeps it as it is, and any other model loses it.
    """
    if unused := [name for name in _UNUSED if getattr(config.model, name) != FIELDS[f"model.{name}"].default]:
        log.info("config.init_from brings the whole model; not used are model.%s", ", model.".join(unused))
    module, params, fresh = load.read_dual(folder_of(config), compute, allow_pickle=config.model.allow_pickle)
    model, params = _fitted(module.config, config), dict(params)
    if model.vision != module.config.vision:
        params["vision"] = resized(params["vision"], module.config.vision, model.vision)
    if model.logit_bias_init_value is None:
        params.pop("logit_bias", None)
    else:
        params.setdefault("logit_bias", np.float32(model.logit_bias_init_value))
    return Loaded(DualEncoder(model, compute), params, fresh)


def model_config(config: TrainConfig) -> DualEncoderConfig:
    """The config of the model that `read` returns; no weights are read."""
    raw = kinds.read_config(folder_of(config), allow_pickle=config.model.allow_pickle)
    return _fitted(DualEncoderConfig.from_hf(raw), config)


def _fitted(model: DualEncoderConfig, config: TrainConfig) -> DualEncoderConfig:
    """The model's config, adapted to the loss and the image size of the run."""
    size, bias = config.model.image_size, bias_of(config)
    if model.logit_bias_init_value is not None and (bias is not None or model.composite.sigmoid):
        bias = model.logit_bias_init_value
    model = dataclasses.replace(model, logit_bias_init_value=bias)
    if size is None:
        return model
    return dataclasses.replace(model, vision=with_image_size(model.vision_type, model.vision, size))
