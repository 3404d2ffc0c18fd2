"""What timm makes of the name of an architecture is what we make of it, or we refuse the name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import lit_jax
from lit_jax.hf.conversions.renames import converted
from lit_jax.hf.conversions.timm import tower
from lit_jax.hf.conversions.timm_names import name_of
from lit_jax.models.encoders import VISION
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


NOT_READ = {
    *(
        "convnext_atto_ols",
        "convnext_femto_ols",
        "convnext_pico_ols",
        "convnext_nano_ols",
    ),  # Stems that overlap.
    *("convnext_atto_rms", "convnext_zepto_rms", "convnext_zepto_rms_ols"),  # Norms without a mean.
    "convnext_large_mlp",  # A hidden layer behind the pooling.
    "test_convnext3",  # Kernels of several sizes.
}
# What a name becomes on the way back, where it is not itself; the first one's pooling has no place there.
BACK = {"convnext_tiny_hnf": "convnext_tiny", "test_convnext": None, "test_convnext2": None}
FEWER = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}


def epsilons(model):
    """Those of the norms."""
    parts = {name: module for name, module in model.named_modules() if not name.endswith("grn")}
    return {module.eps for module in parts.values() if hasattr(module, "eps")}


def test_every_convnext_of_timm_is_read_as_it_is_or_refused_by_its_name(tmp_path):
    refused = set()
    for name in timm.list_models("*convnext*"):
        model, tensors = made(name)
        if (config := ours(name, model, tensors, tmp_path)) is None:
            refused.add(name)
            continue
        block = model.stages[0].blocks[0]
        assert epsilons(model) == {config["layer_norm_eps"]}, name
        # The other types have this eps within.
        assert config["model_type"] == "dinov3_convnext" or config["layer_norm_eps"] == 1e-6, name
        assert config["hidden_act"] == ACTIVATIONS[type(block.mlp.act).__name__], name
        assert config["depths"] == [len(stage.blocks) for stage in model.stages], name
        assert config["hidden_sizes"] == [info["num_chs"] for info in model.feature_info], name
        assert (config["model_type"] == "convnextv2") == hasattr(block.mlp, "grn"), name
        assert (config["model_type"] == "convnextv2") == (block.gamma is None), name
        own = VISION[config["model_type"]].Config.from_hf(config)
        assert name_of(config["model_type"], own) == BACK.get(name, name)
        assert block.conv_dw.kernel_size == (7, 7) and model.stem[0].kernel_size == (4, 4), name
    assert refused == NOT_READ


@pytest.mark.parametrize("name", sorted(NOT_READ))
def test_a_convnext_that_is_not_read_is_named(name, tmp_path):
    _, tensors = made(name)
    with pytest.raises(WeightError, match=f"{name}.* not implemented") as error:
        tower(tmp_path, name, {}, tensors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted({*timm.list_models("*convnext*")} - NOT_READ))
def test_every_convnext_gives_the_features_of_timm(name, tmp_path):
    """With few blocks and channels, and the other arguments that the name stands for."""
    model = filled(timm.create_model(name, num_classes=3, **FEWER))
    timm.models._hub.save_for_hf(model, tmp_path / "theirs", model_args=FEWER, safe_serialization=True)
    tiny.write_tower(tmp_path / "text", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "theirs", tmp_path / "text")
    images = foreign.images(64)
    got = module.apply({"params": jax.tree.map(jnp.asarray, params)}, images, method="pool_images")
    with torch.no_grad():
        want = model.forward_head(model.forward_features(channels_first(images)), pre_logits=True)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


def filled(model):
    """Every leaf is random, also those that start at 0 or 1."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(foreign.drawn(name, s)) for name, s in shapes.items()})
    return model.eval()


def channels_first(images):
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())


OF_A_RESNET = {"layers": [1, 2, 1, 1], "channels": [8, 16, 12, 8]}


def test_no_resnet_of_timm_is_taken_for_another(tmp_path):
    """A name that is taken gives the features of timm."""
    taken = []
    for name in timm.list_models("*resnet*"):
        model, tensors = made(name)
        if ours(name, model, tensors, tmp_path) is None:
            continue
        taken.append(name)
        model = timm.create_model(name, num_classes=0, **OF_A_RESNET)
        filled(model)
        stored = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        part = tower(tmp_path, name, OF_A_RESNET, stored)
        assert part.config["depths"] == OF_A_RESNET["layers"]
        encoder = VISION[part.config["model_type"]]
        config = encoder.config_of(part.config)
        tensors = dict(converted(tmp_path, stored, part.rows, made=part.made, dropped=part.dropped))
        images = foreign.images(64)
        module = encoder.Model(config)
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
        params = encoder.weights(config).to_jax(tensors, shapes)
        got = jax.jit(module.apply)({"params": params}, images).pooler_output
        with torch.no_grad():
            want = model(channels_first(images)).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=name)
    assert taken == [f"resnet{number}" for number in (18, 26, 34, 50, 101, 152, 200)]


OF_A_VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
WRAPPED = {
    "vit_base_patch16_224": (OF_A_VIT, 32),
    "vit_small_patch16_dinov3": (OF_A_VIT, 32),
    "convnext_tiny": (FEWER, 64),
    "resnet18": (OF_A_RESNET, 64),
}


@pytest.mark.parametrize("architecture", WRAPPED)
def test_what_the_wrapper_of_transformers_saves_gives_its_pooled_output(architecture, tmp_path):
    sizes, side = WRAPPED[architecture]
    config = transformers.TimmWrapperConfig(architecture=architecture, model_args=sizes)
    model = filled(transformers.TimmWrapperModel(config))
    model.save_pretrained(tmp_path / "saved")
    tiny.write_tower(tmp_path / "text", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "saved", tmp_path / "text")
    images = foreign.images(side)
    params = {"params": jax.tree.map(jnp.asarray, params)}
    ours = module.apply(params, images, method="pool_images")
    with torch.no_grad():
        theirs = model(channels_first(images)).pooler_output
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
