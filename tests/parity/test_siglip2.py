"""SigLIP 2's image tower against PyTorch: pictures of one shape, and of any shape as padded lists of patches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import ImageOps

import lit_jax
from lit_jax.data.tools.decoded_pictures import check_decodable
from lit_jax.data.transforms.image_processor import make_decode, pixels_of
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.hf.image_processors import set_image_size
from lit_jax.hf.processor import load_image_processor
from lit_jax.models.encoders import siglip2
from lit_jax.utils import naflex
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.bad_pictures import encoded, noise
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


def image_processor(patches=18):
    return transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=patches)


def of_any_shape():
    """Pictures of five shapes: (images for our tower, arguments of transformers' model)."""
    pictures = [noise(size) for size in ((64, 48), (20, 200), (9, 9), (300, 7), (32, 33))]
    given = image_processor()(pictures, return_tensors="pt")
    assert given["spatial_shapes"].tolist() == [[3, 4], [10, 1], [4, 4], [1, 18], [4, 4]]
    decode = make_decode(image_processor())
    images = np.stack([decode(encoded(picture)) for picture in pictures])
    assert (images.shape, images.dtype) == ((5, 144, 8, 4), np.uint8)
    return np.asarray(pixels_of(image_processor()).normalise(images)), given


def test_a_tower_equals_pytorch_at_every_layer_for_a_batch_of_many_shapes(tmp_path):
    theirs = torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images, given = of_any_shape()
    want = theirs(**given, output_hidden_states=True, output_attentions=True)
    got = run(module, params, {"images": images}, hidden_states=True, attentions=True)
    assert_same_layers(layers(got), layers(want))


@pytest.mark.parametrize(
    "size", [(32, 32), pytest.param((48, 24), marks=pytest.mark.slow), "many shapes"], ids=str
)
def test_the_gradient_of_every_leaf_equals_pytorch(size, tmp_path):
    theirs = torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images, given = of_any_shape() if size == "many shapes" else (pixels(*size), in_patches(pixels(*size)))
    output = theirs(**given).pooler_output
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


def test_the_pictures_of_a_batch_do_not_affect_one_another(tmp_path):
    torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images, _ = of_any_shape()
    together = run(module, params, {"images": images}).pooler_output
    alone = [run(module, params, {"images": image[None]}).pooler_output[0] for image in images]
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-5)


def test_a_whole_grid_gives_the_same_with_and_without_the_channel_of_the_patches(tmp_path):
    torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images, given = pixels(24, 48), in_patches(pixels(24, 48))
    packed = naflex.packed(given["pixel_values"].numpy(), given["spatial_shapes"].numpy())
    assert packed.shape == (2, 144, 8, 4)
    got, want = (run(module, params, {"images": x}).last_hidden_state for x in (packed, images))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_padding_does_not_count_in_another_pooling(pooling, tmp_path):
    torch_tower(tiny.SIGLIP2_VISION, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", vision_pooling=pooling)
    images, given = of_any_shape()
    got = module.apply({"params": params}, jnp.asarray(images), method="pool_images")
    states = module.apply({"params": params}, jnp.asarray(images), method="image_features")[
        1
    ].last_hidden_state
    reduce = {"mean": np.mean, "max": np.max}[pooling]
    counts = given["pixel_attention_mask"].sum(axis=1)
    want = [reduce(np.asarray(x[:count]), axis=0) for x, count in zip(states, counts, strict=True)]
    np.testing.assert_allclose(got, np.stack(want), rtol=0, atol=1e-6)


def test_a_picture_of_zeros_that_fills_a_batch_gives_no_nan(tmp_path):
    torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    assert np.isfinite(
        run(module, params, {"images": np.zeros((2, 144, 8, 4), np.float32)}).pooler_output
    ).all()


def test_the_image_processor_is_that_of_transformers(tmp_path):
    fields = {"image_processor_type": "Siglip2ImageProcessorFast", "patch_size": 8, "max_num_patches": 18}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    ours = load_image_processor(tmp_path)
    assert type(ours) is transformers.Siglip2ImageProcessorPil
    assert (ours.patch_size, ours.max_num_patches, pixels_of(ours).size) == (8, 18, (24, 48))
    assert pixels_of(image_processor(17)).size == (8, 136)
    ours.save_pretrained(tmp_path / "again")
    theirs = transformers.Siglip2ImageProcessorPil.from_pretrained(tmp_path / "again")
    assert (theirs.patch_size, theirs.max_num_patches) == (8, 18)
    set_image_size(ours, 48)
    assert ours.max_num_patches == 36
    set_image_size(ours, (16, 64))
    assert ours.max_num_patches == 16


def test_pictures_for_training_keep_their_shapes_unless_a_part_is_cropped():
    picture = noise((200, 20))
    data, exact = encoded(picture), make_decode(image_processor())
    for how in ("exact", "fast"):
        np.testing.assert_array_equal(make_train_decode(image_processor(), how)(data), exact(data))
    flip = make_train_decode(image_processor(), augment="flip")
    mirrored = exact(encoded(ImageOps.mirror(picture)))
    results = [flip(data, key) for key in range(8)]
    assert all(any(np.array_equal(x, y) for x in results) for y in (exact(data), mirrored))
    assert all(np.array_equal(x, exact(data)) or np.array_equal(x, mirrored) for x in results)
    assert make_train_decode(image_processor(), augment="crop")(data, 1).shape == (24, 48, 3)


def test_patches_of_another_size_than_the_tower_takes_are_refused(tmp_path):
    torch_tower(tiny.SIGLIP2_VISION, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    with pytest.raises(
        ConfigError, match="come in patches of 16 pixels; this tower takes patches of 8: set patch_"
    ):
        run(module, params, {"images": np.zeros((1, 64, 16, 4), np.float32)})


def test_an_image_processor_that_does_not_resize_is_refused():
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=64, do_resize=False)
    with pytest.raises(
        ConfigError, match="Siglip2ImageProcessorPil does not resize pictures, so they can have more"
    ):
        pixels_of(processor)


def test_pictures_of_any_shape_are_not_stored_as_pixels():
    with pytest.raises(
        ConfigError, match="Siglip2ImageProcessorPil cuts pictures into patches, which a file of"
    ):
        check_decodable(image_processor())


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


def whole(folder):
    """A whole SigLIP 2 of transformers, which is also written into the folder."""
    vision = {name: value for name, value in tiny.SIGLIP2_VISION.items() if name != "model_type"}
    text = {name: value for name, value in tiny.BERT.items() if name != "model_type"} | {
        "projection_size": 32
    }
    config = transformers.Siglip2Config(vision_config=vision, text_config=text)
    theirs = randomise(transformers.Siglip2Model(config), 0)
    theirs.save_pretrained(folder)
    return theirs


def test_a_whole_siglip_2_equals_pytorch_for_what_its_processor_returns(tmp_path):
    theirs = whole(tmp_path)
    ours = lit_jax.VisionTextDualEncoderModel.from_pretrained(tmp_path)
    _, given = of_any_shape()
    words = {name: value for name, value in texts().items() if name != "token_type_ids"}
    want = theirs(**in_torch(words), **given)
    arrays = {name: value.numpy() for name, value in given.items()}
    for inputs in (arrays, {name: jnp.asarray(value) for name, value in arrays.items()}):
        got = ours(**words, **inputs)
        np.testing.assert_allclose(got.image_embeds, want.image_embeds.detach(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(got.logits_per_image, want.logits_per_image.detach(), rtol=0, atol=1e-5)
    features = theirs.get_image_features(**given)
    want = getattr(features, "pooler_output", features).detach().numpy()
    np.testing.assert_allclose(
        ours.get_image_features(**arrays), want, rtol=0, atol=1e-5 * np.abs(want).max()
    )
    in_jit = jax.jit(lambda inputs: ours.get_image_features(**inputs))(arrays)
    np.testing.assert_allclose(in_jit, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_the_embeddings_of_files_are_those_of_pytorch_for_pictures_of_their_own_shapes(tmp_path):
    theirs = whole(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    image_processor().save_pretrained(tmp_path / "m")
    pictures = [noise(size) for size in ((64, 48), (20, 200), (9, 9), (300, 7))]
    embedder = lit_jax.Embedder(tmp_path / "m")
    got = embedder({"bytes": [encoded(picture) for picture in pictures]})["image_embedding"]
    features = theirs.get_image_features(**image_processor()(pictures, return_tensors="pt"))
    want = torch.nn.functional.normalize(getattr(features, "pooler_output", features)).detach()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial_shapes": None}, "pixel_attention_mask is given without spatial_shapes"),
        (
            {"spatial_shapes": None, "pixel_attention_mask": None},
            "pixel_values have shape .5, 18, 192.; wanted",
        ),
        ({"spatial_shapes": np.full((5, 2), 2.0)}, "spatial_shapes are float64 of shape"),
        ({"spatial_shapes": np.full((4, 2), 2)}, "wanted integers of shape .5, 2."),
        (
            {"spatial_shapes": np.full((5, 2), 5)},
            r"image 0 of the batch has the spatial_shapes \[5, 5\]; wanted",
        ),
        ({"spatial_shapes": np.full((5, 2), 2**33)}, "at most 18 patches in all"),
        ({"spatial_shapes": np.zeros((5, 2), int)}, "1 or more"),
        ({"pixel_attention_mask": np.ones((5, 18), int)}, "pixel_attention_mask differs from spatial_shapes"),
        ({"pixel_attention_mask": np.ones((5, 17), int)}, r"has shape \(5, 17\); wanted \(5, 18\)"),
        ({"pixel_values": np.zeros((5, 18, 191), np.float32)}, r"wanted floats \[batch, patches, 192\]"),
        (
            {"pixel_values": np.zeros((0, 18, 192), np.float32)},
            r"float32 of shape \(0, 18, 192\); wanted floats",
        ),
        ({"pixel_values": np.zeros((5, 18, 192), np.uint8)}, "pixel_values with spatial_shapes are uint8"),
        ({"pixel_values": np.full((5, 18, 192), 200.0)}, "image 0 of the batch has a pixel of 200"),
    ],
    ids=str,
)
def test_lists_of_patches_that_do_not_fit_one_another_are_refused(change, message, tmp_path):
    whole(tmp_path)
    ours = lit_jax.VisionTextDualEncoderModel.from_pretrained(tmp_path)
    given = {name: value.numpy() for name, value in of_any_shape()[1].items()}
    with pytest.raises(ConfigError, match=message) as error:
        ours.get_image_features(**given | change)
    assert "\n" not in str(error.value)


def test_another_tower_refuses_shapes_of_pictures(tmp_path):
    ours = lit_jax.VisionTextDualEncoderModel.from_vision_text_pretrained(*tiny.write_towers(tmp_path))
    with pytest.raises(ConfigError, match="this image tower takes pictures of one size; leave them out"):
        ours.get_image_features(np.zeros((1, 4, 192), np.float32), spatial_shapes=np.full((1, 2), 2))


@pytest.mark.slow
def test_a_whole_siglip_2_equals_pytorch_for_square_pictures_and_goes_back_to_its_class(tmp_path):
    theirs = whole(tmp_path / "m")
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
