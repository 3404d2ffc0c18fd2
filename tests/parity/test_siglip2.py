"""SigLIP 2's image tower against PyTorch, which gets the same patches as a list with a mask of ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf.processor import load_image_processor
from lit_jax.models.encoders import siglip2
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.bad_pictures import noise
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers, randomise
from tests.parity.towers import (
    assert_same_gradients,
    in_torch,
    layers,
    our_tower,
    run,
    texts,
    torch_gradients,
    torch_tower,
)

SIZES = [(32, 32), (48, 48), (16, 64), (24, 8), (72, 40), (8, 8)]


def pixels(height, width, batch=2):
    return np.random.default_rng(1).normal(size=(batch, height, width, 3)).astype(np.float32)


def in_patches(images, patch=8):
    """NHWC -> the arguments of transformers' model."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(batch, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return {
        "pixel_values": torch.from_numpy(cut.reshape(batch, rows * columns, -1).copy()),
        "pixel_attention_mask": torch.ones(batch, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch),
    }


@pytest.mark.sampled(6)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "hf", [tiny.SIGLIP2_VISION, tiny.SIGLIP2_VISION | {"hidden_act": "gelu", "layer_norm_eps": 1e-3}]
)
def test_a_tower_equals_pytorch_at_every_layer_for_pictures_of_every_shape(hf, size, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(*size)
    want = theirs(**in_patches(images), output_hidden_states=True, output_attentions=True)
    options = {"interpolate": size != (32, 32), "hidden_states": True, "attentions": True}
    got = run(module, params, {"images": images}, **options)
    assert_same_layers(layers(got), layers(want))


@pytest.mark.parametrize("size", [(32, 32), pytest.param((48, 24), marks=pytest.mark.slow)], ids=str)
def test_the_gradient_of_every_leaf_equals_pytorch(size, tmp_path):
    theirs = torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(*size)
    output = theirs(**in_patches(images)).pooler_output
    weight = np.random.default_rng(3).normal(size=tuple(output.shape)).astype(np.float32)
    (output * torch.from_numpy(weight)).sum().backward()
    want = torch_gradients(theirs, "vision", tmp_path / "gradients")

    def loss(params):
        return (run(module, params, {"images": images}, interpolate=True).pooler_output * weight).sum()

    assert_same_gradients(jax.jit(jax.grad(loss))(params), want)


def test_weights_go_to_jax_and_back_to_the_same_bits(tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("vision", tiny.SIGLIP2_VISION, tmp_path)


@pytest.mark.slow
def test_names_that_transformers_5_has_in_memory_are_understood(tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood(
        "vision", tiny.SIGLIP2_VISION, tmp_path
    )


@pytest.mark.slow
def test_the_pictures_can_have_another_size_than_the_positions(tmp_path):
    theirs = torch_tower(tiny.SIGLIP2_VISION, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=48)
    assert (module.config.vision.image_size, params["vision"]["positions"].shape) == (48, (16, 32))
    images = pixels(48, 48)
    got = module.apply({"params": params}, jnp.asarray(images), method="pool_images")
    assert_same_layers({"pooled": got}, {"pooled": theirs(**in_patches(images)).pooler_output})
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=(24, 48))
    images = pixels(24, 48)
    got = module.apply({"params": params}, jnp.asarray(images), method="pool_images")
    assert_same_layers({"pooled": got}, {"pooled": theirs(**in_patches(images)).pooler_output})


@pytest.mark.slow
def test_a_tower_has_no_place_in_a_dual_encoder_of_transformers_and_goes_back_alone(tmp_path):
    theirs = torch_tower(tiny.SIGLIP2_VISION, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t")
    with pytest.raises(WeightError, match=r"siglip2_vision_model.*no place"):
        lit_jax.save(tmp_path / "m", module, params)
    lit_jax.save(tmp_path / "m", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "m")
    assert again.config == module.config
    jax.tree.map(np.testing.assert_array_equal, same, params)
    lit_jax.save(tmp_path / "towers", module, params, layout="towers")
    back = transformers.AutoModel.from_pretrained(tmp_path / "towers" / "vision", attn_implementation="eager")
    given = in_patches(pixels(32, 32))
    want, got = (model.eval()(**given).pooler_output.detach() for model in (theirs, back))
    np.testing.assert_array_equal(got, want)


def test_the_image_processor_gives_a_square_of_as_many_patches(tmp_path):
    fields = {"image_processor_type": "Siglip2ImageProcessorFast", "patch_size": 8, "max_num_patches": 16}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    ours = load_image_processor(tmp_path)
    for shape in ((64, 64), (30, 30)):  # For a square, theirs makes the same.
        picture = noise(shape)
        got = ours(picture, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        want = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)(
            picture, return_tensors="np"
        )
        assert want["spatial_shapes"].tolist() == [[4, 4]]
        np.testing.assert_allclose(in_patches(got)["pixel_values"], want["pixel_values"], rtol=0, atol=1e-6)
    assert ours(noise((90, 20)), return_tensors="np")["pixel_values"].shape == (1, 3, 32, 32)
    ours.save_pretrained(tmp_path / "again")
    theirs = transformers.Siglip2ImageProcessorPil.from_pretrained(tmp_path / "again")
    assert (theirs.patch_size, theirs.max_num_patches) == (8, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_patches": 15}, "num_patches=15 is not usable; wanted a square number"),
        ({"vision_use_head": False}, "vision_use_head=False"),
        ({"image_size": 4}, "patch_size=8 is not usable with image_size=4"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        siglip2.Config.from_hf(tiny.SIGLIP2_VISION | change)


@pytest.mark.slow
def test_a_whole_siglip_2_equals_pytorch_for_square_pictures_and_goes_back_to_its_class(tmp_path):
    vision = {name: value for name, value in tiny.SIGLIP2_VISION.items() if name != "model_type"}
    text = {name: value for name, value in tiny.BERT.items() if name != "model_type"} | {
        "projection_size": 32
    }
    config = transformers.Siglip2Config(vision_config=vision, text_config=text)
    theirs = randomise(transformers.Siglip2Model(config), 0)
    theirs.save_pretrained(tmp_path / "m")
    images = pixels(32, 32, batch=3)
    given = {name: value for name, value in texts().items() if name != "token_type_ids"}
    want = theirs(**in_torch(given), **in_patches(images))
    module, params = lit_jax.load(tmp_path / "m")
    image, words, scale = module.apply(
        {"params": params}, jnp.asarray(images), jax.tree.map(jnp.asarray, given)
    )
    np.testing.assert_allclose(image, want.image_embeds.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(words, want.text_embeds.detach(), rtol=0, atol=1e-5)
    logits = scale * image @ words.T + params["logit_bias"]
    np.testing.assert_allclose(logits, want.logits_per_image.detach(), rtol=0, atol=1e-5)

    lit_jax.save(tmp_path / "again", module, params)
    back, info = transformers.Siglip2Model.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in back.state_dict().items())
    first, second = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("m", "again"))
    assert first["architectures"] == second["architectures"] and first["model_type"] == second["model_type"]
    assert all(first[h]["model_type"] == second[h]["model_type"] for h in ("vision_config", "text_config"))
