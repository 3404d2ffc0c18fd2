"""Tiny towers of every architecture: configs as in config.json, and folders with random weights."""

import jax
import numpy as np

from lit_jax import dual_encoder, hub
from lit_jax.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.weights import WeightMap

VIT = {
    "model_type": "vit",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
DINOV2 = {
    "model_type": "dinov2",
    "image_size": 56,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def dual_config(vision=VIT, text=BERT, projection_dim=16):
    return DualEncoderConfig.from_hf(
        {
            "model_type": "vision-text-dual-encoder",
            "vision_config": vision,
            "text_config": text,
            "projection_dim": projection_dim,
        }
    )


def randomised(params, seed=0):
    """Every leaf away from zeros and ones, so that a lost bias or scale cannot pass."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (np.asarray(leaf) + rng.normal(0, 0.1, leaf.shape)).astype(np.float32), params
    )


def dual(seed=0, **kwargs):
    """A module and randomised params."""
    module = DualEncoder(dual_config(**kwargs))
    return module, randomised(dual_encoder.init_params(module, seed), seed)


def write_tower(folder, hf, seed=0, without=r"(?!)"):
    """A tower's folder; `without` is a regex of param paths that its checkpoint lacks."""
    tower = "vision" if "patch_size" in hf else "text"
    encoder = encoder_of(tower, hf["model_type"])
    config = encoder.Config.from_hf(hf)
    _, params = dual(seed, **{tower: hf})
    table: WeightMap = encoder.weights(config)
    kept = table.without(without)
    dropped = {name for row in table.rows if row not in kept.rows for name in row.hf_names()}
    tensors = {k: v for k, v in table.to_hf(params[tower]).items() if k not in dropped}
    hub.write(folder, hf, tensors)
    return params[tower]
