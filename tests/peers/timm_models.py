"""Models of timm with sizes of our own, and what we make of them."""

import re

import numpy as np
import pytest
import torch

from lit_jax.hf.conversions.timm import tower
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

timm = pytest.importorskip("timm")

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}
OF_A_VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
OF_A_CONVNEXT = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}
OF_A_FASTVIT = {"layers": [1, 2, 1, 1], "embed_dims": [8, 16, 32, 32]}
OF_A_FASTVIT_OF_FIVE = {"layers": [1, 1, 2, 1, 1], "embed_dims": [8, 16, 16, 32, 32]}
OF_A_HIERA = {"embed_dim": 8, "stages": [1, 2, 2, 1], "img_size": 64}
OF_A_BIT = {"layers": [1, 2, 1, 1], "channels": [128, 256, 256, 384]}  # Its groups are always 32.
OF_A_RESNET = {"layers": [1, 2, 1, 1], "channels": [8, 16, 12, 8]}


def made(name):
    """The model without memory for its weights, and its tensors as views of one number."""
    with torch.device("meta"):
        model = timm.create_model(name)
    zero = np.zeros((), np.float32)
    return model, {key: np.broadcast_to(zero, tuple(t.shape)) for key, t in model.state_dict().items()}


def ours(name, model, tensors, folder):
    """The config that we make of it, or None if it is refused or its tensors are not those of the table."""
    pool = getattr(model, "global_pool", "")
    try:
        part = tower(folder, name, {}, tensors, pooling=getattr(pool, "pool_type", pool))
    except WeightError as error:
        assert str(error).startswith(str(folder))
        return None
    wanted = {stored for row in part.rows for stored in row.hf_names()}
    known = re.compile(rf"({part.dropped})|head\.(fc\.)?\w+|mask_token")
    left = {stored for stored in tensors if not known.fullmatch(stored)} - wanted
    return None if left or not wanted <= tensors.keys() else part.config


def filled(model):
    """The model with random leaves, also where they start at 0 or 1."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(foreign.drawn(name, s)) for name, s in shapes.items()})
    return model.eval()


def channels_first(images):
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())
