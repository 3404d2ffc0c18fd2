"""Every ConvNeXt of timm gives its features, or is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf.conversions.timm import tower
from lit_jax.hf.conversions.timm_names import name_of
from lit_jax.models.encoders import VISION
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.hf.conversions import foreign
from tests.peers.timm_models import (
    ACTIVATIONS,
    OF_A_CONVNEXT,
    channels_first,
    filled,
    made,
    ours,
    timm,
)

NOT_READ = {
    # Stems that overlap.
    *("convnext_atto_ols", "convnext_femto_ols", "convnext_pico_ols", "convnext_nano_ols"),
    *("convnext_atto_rms", "convnext_zepto_rms", "convnext_zepto_rms_ols"),  # Norms without a mean.
    "convnext_large_mlp",  # A hidden layer after the pooling.
    "test_convnext3",  # Kernels of several sizes.
}
# What a name becomes on the way back, where it changes; the pooling of the first one is lost there.
BACK = {"convnext_tiny_hnf": "convnext_tiny", "test_convnext": None, "test_convnext2": None}


def epsilons(model):
    """The epsilons of the norms."""
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
        # The other types always have this eps inside.
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
    model = filled(timm.create_model(name, num_classes=3, **OF_A_CONVNEXT))
    timm.models._hub.save_for_hf(
        model, tmp_path / "theirs", model_args=OF_A_CONVNEXT, safe_serialization=True
    )
    tiny.write_tower(tmp_path / "text", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "theirs", tmp_path / "text")
    images = foreign.images(64)
    got = module.apply({"params": jax.tree.map(jnp.asarray, params)}, images, method="pool_images")
    with torch.no_grad():
        want = model.forward_head(model.forward_features(channels_first(images)), pre_logits=True)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)
