"""A tower that is loaded for pictures of another size equals PyTorch's tower with interpolated positions."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

import lit_jax
from lit_jax.hf import image_processors
from lit_jax.hf.processor import load_processor
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.test_encoders import RESIZED
from tests.parity.towers import ASKED, how_of, pixels, pooled, torch_tower

TYPES = RESIZED | {
    "swin": tiny.SWIN,
    "swin with absolute positions": tiny.SWIN | {"use_absolute_embeddings": True},
    "swinv2": tiny.SWINV2,
}
INTERPOLATED = {*ASKED, "swin"}


def sizes(hf):
    """A smaller and a larger size than the tower's own; two larger ones if windows would not fit the smaller."""
    first = 4 if "window_size" in hf else -2
    return [hf["image_size"] + by * hf["patch_size"] for by in (first, 2)]


@pytest.mark.sampled(32)
@pytest.mark.parametrize("name", TYPES)
def test_a_tower_loaded_at_another_size_equals_interpolation_in_pytorch(name, tmp_path):
    hf = TYPES[name]
    theirs = torch_tower(hf, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    extra = {"interpolate_pos_encoding": True} if hf["model_type"] in INTERPOLATED else {}
    for size in sizes(hf):
        module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=size)
        assert module.config.vision.image_size == size
        # Swin v2 has no positions, and shifts windows by the size that it is made for.
        if hf["model_type"] == "swinv2":
            theirs = transformers.AutoModel.from_pretrained(tmp_path / "v", image_size=size).eval()
        images = pixels(size)
        want = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **extra)
        inner = module.bind({"params": params}).vision
        got = inner(jnp.asarray(images))  # The tower's own size: nothing is interpolated.
        assert_same_layers(
            {"last": got.last_hidden_state, "pooled": got.pooler_output},
            {"last": want.last_hidden_state, "pooled": pooled(want, how_of(hf))},
        )


def test_a_dual_encoder_loaded_at_another_size_equals_interpolation_in_pytorch(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path / "m", module, params)
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "m").eval()
    module, params = lit_jax.load(tmp_path / "m", image_size=48)
    images = pixels(48)
    got = module.apply({"params": params}, jnp.asarray(images))[0]
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        outputs = theirs.vision_model(inputs, interpolate_pos_encoding=True)
        want = theirs.visual_projection(outputs.pooler_output)
    want = (want / want.norm(dim=-1, keepdim=True)).numpy()
    np.testing.assert_allclose(got / np.linalg.norm(got, axis=1, keepdims=True), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [0, 7, 33, 44])
def test_a_size_that_the_patches_do_not_divide_is_refused_with_two_that_they_do(size, tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    below = max(size // 8 * 8, 8)
    with pytest.raises(ConfigError, match=rf"is {size}; .* of 8, the patch size: {below} or {below + 8}$"):
        lit_jax.from_towers(vision, text, image_size=size)
    with pytest.raises(ConfigError, match="image_size"):
        train(tiny.config(tmp_path, model__image_size=size), tmp_path / "run")


PROCESSORS = {
    "ViT": ({"size": {"height": 32, "width": 32}}, {"size": {"height": 48, "width": 48}}),
    "CLIP": (
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48}},
    ),
    "Beit": (
        {
            "size": {"height": 40, "width": 40},
            "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True,
        },
        {"size": {"height": 60, "width": 60}, "crop_size": {"height": 48, "width": 48}},
    ),
    "Siglip": ({"size": {"height": 32, "width": 32}}, {"size": {"height": 48, "width": 48}}),
    "Bit": (
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_set_to_another_size_equals_one_that_was_made_for_it(name, tmp_path):
    given, wanted = PROCESSORS[name]
    kind = getattr(transformers, f"{name}ImageProcessorPil")
    processor, plain = kind(**given), kind(**(given | wanted))
    image_processors.set_image_size(processor, 48)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    got, want = (each(image, return_tensors="np")["pixel_values"] for each in (processor, plain))
    assert got.shape == (1, 3, 48, 48)
    np.testing.assert_array_equal(got, want)
    assert processor.to_dict() == plain.to_dict()


@pytest.mark.slow
def test_a_run_at_another_size_is_exported_for_pictures_of_that_size(tmp_path):
    from lit_jax.tools.export import export

    config = tiny.config(tmp_path, steps=3, data__test="", model__image_size=48, cache=True)
    train(config, tmp_path / "run")
    assert read_trained(tmp_path / "run").params["vision"]["embeddings"]["pos"].shape[1] == 6 * 6 + 1
    export(tmp_path / "run", tmp_path / "out")
    processor = load_processor(tmp_path / "out")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    given = processor(images=image, return_tensors="np")["pixel_values"]
    assert given.shape == (1, 3, 48, 48)
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.vision_config.image_size == 48
    with torch.no_grad():
        want = theirs.get_image_features(torch.from_numpy(given))
    want = getattr(want, "pooler_output", want).numpy()
    module, params = lit_jax.load(tmp_path / "out")
    got = module.apply({"params": params}, jnp.asarray(given.transpose(0, 2, 3, 1)))[0]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.asarray(got), want)]
    np.testing.assert_allclose(*unit, rtol=0, atol=1e-5)
