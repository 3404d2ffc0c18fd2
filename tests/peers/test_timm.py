"""What timm makes of the name of an architecture is what we make of it, or we refuse the name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import lit_jax
from lit_jax.hf.conversions.timm import tower
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.hf.conversions import foreign

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


@pytest.mark.parametrize("architecture", ["vit_base_patch16_224", "vit_small_patch16_dinov3"])
def test_what_the_wrapper_of_transformers_saves_gives_its_pooled_output(architecture, tmp_path):
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
    config = transformers.TimmWrapperConfig(architecture=architecture, model_args=sizes)
    model = transformers.TimmWrapperModel(config).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(foreign.drawn(name, s)) for name, s in shapes.items()})
    model.save_pretrained(tmp_path / "saved")
    tiny.write_tower(tmp_path / "text", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "saved", tmp_path / "text")
    images = foreign.images(32)
    params = {"params": jax.tree.map(jnp.asarray, params)}
    ours = module.apply(params, images, method="pool_images")
    with torch.no_grad():
        theirs = model(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())).pooler_output
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
