"""A folder that is not a model is refused with what it is and what it needs."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import lit_jax
from lit_jax.hf import kinds
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

TENSORS = {
    "open_clip": ["visual.conv1.weight", "visual.proj", "logit_scale"],
    "open_clip of timm": ["module.visual.trunk.blocks.0.attn.qkv.weight", "module.logit_scale"],
    "timm": ["cls_token", "blocks.0.attn.qkv.weight"],
    "timm's ConvNeXt": ["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
    "timm's Hiera": ["blocks.1.attn.qkv.weight", "blocks.1.proj.weight"],
    "timm's BiT": ["stem.conv.weight", "stages.0.blocks.0.downsample.conv.weight"],
    "DINOv2": ["teacher.backbone.blocks.0.0.attn.qkv.weight", "teacher.dino_head.mlp.0.weight"],
    "torchvision": ["conv1.weight", "layer1.0.conv1.weight"],
    "transformers": ["encoder.layer.0.attention.attention.query.weight"],
}
REMEDIES = {
    "open_clip": r"a model of open_clip: .* open_clip\.get_model_config\(NAME\) gives to open_clip_config\.json",
    "open_clip of timm": r"a model of open_clip",
    "timm": r'a ViT as timm names them: .* \{"architecture": "vit_base_patch16_224"\}',
    "timm's ConvNeXt": r'a ConvNeXt as timm names them: .* \{"architecture": "convnext_base"\}',
    "timm's Hiera": r'a Hiera as timm names them: .* \{"architecture": "hiera_base_224"\}',
    "timm's BiT": r'a BiT as timm names them: .* \{"architecture": "resnetv2_50x1_bit"\}',
    "DINOv2": r"a ViT as timm names them",
    "torchvision": r'a ResNet as timm and torchvision name them: .* \{"architecture": "resnet50"\}',
    "transformers": r"copy that of the model that they were trained from",
}


@pytest.mark.parametrize("name", TENSORS)
def test_weights_without_a_config_say_which_config_they_need(name, tmp_path):
    tensors = {key: np.ones((2, 2), np.float32) for key in TENSORS[name]}
    save_file(tensors, tmp_path / "model.safetensors")
    for opened in (kinds.read_config, lit_jax.load):
        with pytest.raises(WeightError, match=REMEDIES[name]) as error:
            opened(tmp_path)
        assert str(error.value).startswith(f"{tmp_path} has no config.json, ") and "\n" not in str(
            error.value
        )


def test_names_in_a_pickle_are_used_only_where_pickles_are_allowed(tmp_path):
    torch.save({key: torch.ones(2, 2) for key in TENSORS["timm"]}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightError, match="copy that of the model"):
        kinds.read_config(tmp_path)
    with pytest.raises(WeightError, match="a ViT as timm names them"):
        kinds.read_config(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("name", ["epoch_3.pt", "dinov2_vits14_pretrain.pth", "last.ckpt"])
def test_weights_of_another_name_without_a_config_are_still_called_weights(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightError, match=r"has no config\.json, which says what its weights are"):
        kinds.read_config(tmp_path)


def test_a_folder_without_weights_is_not_a_model_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(WeightError, match=r"has no config\.json; it is not a Hugging Face model folder"):
        kinds.read_config(tmp_path)


def test_the_config_that_is_asked_for_opens_the_weights(tmp_path):
    model = foreign.stored("vit")
    foreign.write(tmp_path, model)
    (tmp_path / "config.json").write_text(
        '{"architecture": "vit_base_patch16_224", "model_args": {"num_heads": 2}}'
    )
    assert kinds.read_config(tmp_path)["model_type"] == "vit"
