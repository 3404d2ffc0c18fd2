"""What timm makes of the name of an architecture is what we make of it, or we refuse the name."""

import re

import numpy as np
import pytest
import torch

from lit_jax.hf.conversions.timm import tower
from lit_jax.utils.errors import WeightError

timm = pytest.importorskip("timm")

FAMILIES = {"VisionTransformer": "Block", "Eva": "EvaBlock"}  # Class of a model -> of its blocks.
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}


def made(name):
    """The model without memory for its weights, and its tensors as views of one number."""
    with torch.device("meta"):
        model = timm.create_model(name)
    zero = np.zeros((), np.float32)
    return model, {key: np.broadcast_to(zero, tuple(t.shape)) for key, t in model.state_dict().items()}


def ours(name, model, tensors, folder):
    """The config that we make of it; None: it is refused, or its tensors are not those of the table."""
    try:
        part = tower(folder, name, {}, tensors, pooling=model.global_pool)
    except WeightError as error:
        assert str(error).startswith(str(folder))
        return None
    wanted = {stored for row in part.rows for stored in row.hf_names()}
    known = re.compile(rf"({part.dropped})|head\.\w+|mask_token")
    left = {stored for stored in tensors if not known.fullmatch(stored)} - wanted
    return None if left or not wanted <= tensors.keys() else part.config


def test_no_architecture_of_timm_is_taken_for_another(tmp_path):
    names = [name for name in timm.list_models() if re.match(r"(vit|deit|flexivit|test_vit)", name)]
    taken = {}
    for name in names:
        model, tensors = made(name)
        if (config := ours(name, model, tensors, tmp_path)) is None:
            continue
        block, act = model.blocks[0], ACTIVATIONS[type(model.blocks[0].mlp.act).__name__]
        assert type(block).__name__ == FAMILIES[type(model).__name__], name
        assert config["num_attention_heads"] == block.attn.num_heads, name
        assert config["layer_norm_eps"] == block.norm1.eps, name
        # transformers' DINOv2 with gated MLPs has no other activation there.
        assert config["hidden_act"] == act or config.get("use_swiglu_ffn"), name
        taken[config["model_type"]] = taken.get(config["model_type"], 0) + 1
    assert {"vit", "beit", "ijepa", "dinov2", "dinov2_with_registers", "dinov3_vit"} - taken.keys() == {
        "beit"
    }
    assert sum(taken.values()) >= 127
