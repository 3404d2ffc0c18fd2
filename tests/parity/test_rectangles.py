"""Pictures and patches that are not squares, for every type that transformers makes for them, against PyTorch."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

import lit_jax
from lit_jax.hf import image_processors, programs
from lit_jax.hf.processor import load_processor
from lit_jax.hf.programs import onnx_files, towers
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders import VISION
from lit_jax.models.image_size import resized, with_image_size
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.sides import pair
from tests import tiny
from tests.parity import test_convnext
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers
from tests.parity.test_image_size import INTERPOLATED, TYPES
from tests.parity.towers import how_of, in_order, layers, our_tower, pixels, pooled, torch_tower

WIDE, TALL = {"image_size": [24, 40]}, {"image_size": [40, 24]}
PATCHES = {"image_size": [24, 20], "patch_size": [8, 4]}
SQUARE = {"image_size": 32, "patch_size": [8, 4]}  # More columns than rows of patches.
SQUARE_GRID = {"image_size": [32, 16], "patch_size": [8, 4]}
PLAIN = {"use_relative_position_bias": False}
ABSOLUTE = PLAIN | {"use_absolute_position_embeddings": True}
# Only some of these run every day, and fewer in tests that take longer.
TOWERS = {
    "vit with patches": tiny.VIT | PATCHES,
    "vit": tiny.VIT | WIDE,
    "swin with patches and absolute positions": tiny.SWIN
    | {"image_size": [32, 24], "patch_size": [4, 2], "use_absolute_embeddings": True},
    "beit with a shared bias, tall": tiny.BEIT | TALL | PLAIN | {"use_shared_relative_position_bias": True},
    "beit with both biases and a square table": tiny.BEIT
    | {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True},
    "beit with patches and a table": tiny.BEIT | SQUARE | ABSOLUTE,
    "beit": tiny.BEIT | WIDE,
    "beit with patches and no positions": tiny.BEIT | PATCHES | PLAIN | {"use_mean_pooling": False},
    "dinov2 of a square with patches": tiny.DINOV2 | SQUARE,
    "dinov2 of as many rows as columns": tiny.DINOV2 | SQUARE_GRID,
    "dinov2 with registers, of as many rows as columns": tiny.DINOV2_REGISTERS | SQUARE_GRID,
    "dinov3 with patches": tiny.DINOV3 | PATCHES,
    "dinov2 with registers, with patches": tiny.DINOV2_REGISTERS | SQUARE,
    "swinv2": tiny.SWINV2 | {"image_size": [32, 48]},
    "swinv2 of fewer rows than a window": tiny.SWINV2 | {"image_size": [12, 48]},
    "swinv2 of fewer columns than a window, with patches": tiny.SWINV2
    | {"image_size": [48, 6], "patch_size": [4, 2]},
    "deit with patches": tiny.DEIT | PATCHES,
    "vit msn with patches": tiny.VIT_MSN | PATCHES,
    "vit mae": tiny.VIT_MAE | WIDE,
    "swin": tiny.SWIN | {"image_size": [32, 48]},
    "i-jepa with patches": tiny.IJEPA | PATCHES,
    "data2vec": tiny.DATA2VEC_VISION | TALL,
    "data2vec with patches and a table": tiny.DATA2VEC_VISION | SQUARE | ABSOLUTE,
    "convnext v2 with patches": tiny.CONVNEXTV2 | PATCHES | {"patch_size": [2, 4]},
    "dinov3 convnext": tiny.DINOV3_CONVNEXT | WIDE,
    "convnext with patches": tiny.CONVNEXT | PATCHES | {"patch_size": [4, 2]},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def in_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.sampled(9)
@every_tower
def test_a_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    assert pair(module.config.image_size) == tuple(np.broadcast_to(hf["image_size"], 2).tolist())
    images = pixels(module.config.image_size)
    if "convnext" in hf["model_type"]:
        test_convnext.compare(theirs, module, params, images)
        return
    want = theirs(in_torch(images), output_hidden_states=True, output_attentions=True)
    run = jax.jit(partial(module.apply, hidden_states=True, attentions=True))
    assert_same_layers(layers(run({"params": params}, jnp.asarray(images))), layers(want, how_of(hf)))


@pytest.mark.slow
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    shared.test_the_gradient_of_every_leaf_equals_pytorch("vision", hf, tmp_path)


@pytest.mark.sampled(12)
@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("vision", hf, tmp_path)


# Wider and taller than the pictures that the towers are made for.
SIZES = {"swin": (48, 64), "swinv2": (48, 64)}
SQUARES = {"clip_vision_model", "chinese_clip_vision_model", "siglip_vision_model", "aimv2_vision_model"}


@pytest.mark.sampled(28)
@pytest.mark.parametrize(
    "name", [name for name in TYPES if TYPES[name]["model_type"] not in SQUARES or "any size" in name]
)
def test_a_tower_loaded_for_a_rectangle_equals_interpolation_in_pytorch(name, tmp_path):
    hf = TYPES[name]
    size = SIZES.get(hf["model_type"], (24, 48))
    theirs = torch_tower(hf, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=size)
    keeps = VISION[hf["model_type"]].any_size(module.config.vision)
    assert module.config.vision.image_size == (hf["image_size"] if keeps else size)
    images = pixels(size)
    inner = module.bind({"params": params}).vision
    got = inner(jnp.asarray(images))
    ours = {"last": got.last_hidden_state, "pooled": got.pooler_output}
    if hf["model_type"] == "swinv2":  # It shifts windows by the size that it is made for.
        theirs = transformers.AutoModel.from_pretrained(tmp_path / "v", image_size=list(size)).eval()
    extra = {"interpolate_pos_encoding": True} if hf["model_type"] in INTERPOLATED else {}
    want = theirs(in_torch(images), **extra)
    assert_same_layers(ours, {"last": want.last_hidden_state, "pooled": pooled(want, how_of(hf))})
    # transformers runs the saved tower without being asked to interpolate.
    lit_jax.save(tmp_path / "out", module, params, layout="towers")
    if VISION[hf["model_type"]].reader == "AutoModel" and hf["model_type"] != "data2vec-vision":
        written = transformers.AutoModel.from_pretrained(
            tmp_path / "out" / "vision", attn_implementation="eager"
        )
        again = in_order(written.eval())(in_torch(images))
        assert_same_layers(ours, {"last": again.last_hidden_state, "pooled": pooled(again, how_of(hf))})


@pytest.mark.parametrize(
    "hf", [tiny.CLIP_VISION, tiny.SIGLIP_VISION, tiny.AIMV2_VISION, tiny.CHINESE_CLIP_VISION]
)
def test_a_type_that_transformers_makes_only_for_squares_is_refused_for_a_rectangle(hf, tmp_path):
    name = hf["model_type"]
    config = encoder_of("vision", name).Config.from_hf(hf)
    with pytest.raises(
        ConfigError, match=rf"image_size is \(24, 40\), and .* a {name} for square pictures alone"
    ):
        with_image_size(name, config, (24, 40))
    for field in (WIDE, {"patch_size": [8, 4]}):
        message = rf"{name} config: {next(iter(field))}=\[\d+, \d+\] is not usable; wanted one number"
        with pytest.raises(WeightError, match=message):
            encoder_of("vision", name).Config.from_hf(hf | field)
        # transformers fails too, when it makes or runs such a tower.
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            torch_tower(hf | field, tmp_path / "x")(
                torch.zeros(1, 3, *np.broadcast_to((hf | field)["image_size"], 2))
            )
    assert encoder_of("vision", name).Config.from_hf(hf | {"image_size": [32, 32]}).image_size == 32


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (tiny.DINOV2 | WIDE, r"dinov2 config: image_size=\(24, 40\) .* square tables of positions alone"),
        (tiny.DINOV2_REGISTERS | PATCHES, r"image_size=\(24, 20\) is not usable with patch_size=\(8, 4\)"),
        (tiny.BEIT | WIDE | ABSOLUTE, r"beit config: image_size=\(24, 40\)"),
        (tiny.BEIT | SQUARE_GRID | ABSOLUTE, r"beit config: image_size=\(32, 16\)"),
        (tiny.BEIT | SQUARE, r"patch_size=\(8, 4\) .* relative positions.* wanted one number"),
        (tiny.DATA2VEC_VISION | SQUARE, r"data2vec-vision config: patch_size=\(8, 4\)"),
    ],
    ids=str,
)
def test_a_rectangle_that_transformers_fails_on_is_refused_by_name(hf, message, tmp_path):
    with pytest.raises(WeightError, match=message):
        VISION[hf["model_type"]].Config.from_hf(hf)
    with pytest.raises((TypeError, RuntimeError)):
        torch_tower(hf, tmp_path)(torch.zeros(1, 3, *np.broadcast_to(hf["image_size"], 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": [24, 40, 3]}, r"image_size=\[24, 40, 3\] is not usable; wanted .* or two of them"),
        ({"image_size": [24]}, r"image_size=\[24\]"),
        ({"image_size": [24, 0]}, r"image_size=\[24, 0\]"),
        ({"image_size": [24, 4.5]}, r"image_size=\[24, 4.5\]"),
        ({"image_size": [24, "40"]}, r"image_size=\[24, '40'\]"),
        ({"image_size": [24, 4]}, r"patch_size=8 is not usable with image_size=\(24, 4\)"),
        ({"patch_size": [8, 40]}, r"patch_size=\(8, 40\) is not usable with image_size=32"),
        ({"patch_size": [[8], 4]}, r"patch_size=\[\[8\], 4\]"),
    ],
    ids=str,
)
def test_an_invalid_size_is_refused_by_name(fields, message):
    with pytest.raises(WeightError, match=message):
        VISION["vit"].config_of(tiny.VIT | fields)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((24, 44), r"is \(24, 44\); wanted a multiple of 8, the patch size: \(24, 40\) or \(24, 48\)$"),
        ((0, 32), r"is \(0, 32\); .*: \(8, 32\) or \(16, 32\)$"),
        ((24, 40, 3), r"is \(24, 40, 3\); wanted a side in pixels, or \(height, width\)$"),
        (("24", 40), "wanted a side in pixels"),
        (24.0, "wanted a side in pixels"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("any_types")
def test_a_size_that_is_invalid_or_that_the_patches_do_not_divide_is_refused(size, message, tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    with pytest.raises(ConfigError, match=message):
        lit_jax.from_towers(vision, text, image_size=size)


@pytest.mark.parametrize("hf", [tiny.DINOV2, tiny.BEIT, tiny.MLCD_VISION, tiny.CLIPSEG_VISION], ids=str)
def test_a_tower_that_fits_itself_to_every_picture_keeps_what_transformers_reads(hf):
    config = VISION[hf["model_type"]].Config.from_hf(hf)
    assert with_image_size(hf["model_type"], config, (24, 48)) is config
    assert with_image_size(hf["model_type"], config, (24, 24)).image_size == 24


def test_patches_that_are_not_squares_are_named_where_they_do_not_divide():
    config = VISION["vit"].Config.from_hf(tiny.VIT | SQUARE)
    message = r"is 30; wanted a multiple of 8x4, the patch size: \(24, 28\) or 32$"
    with pytest.raises(ConfigError, match=message):
        with_image_size("vit", config, 30)


def test_a_table_of_a_rectangle_is_resized_to_another_by_rows_and_by_columns():
    """PyTorch's own models fail here, so this is what they do to a square table."""
    stored = VISION["vit"].Config.from_hf(tiny.VIT | SQUARE)
    table = np.random.default_rng(0).normal(size=(1, 4 * 8 + 1, 5)).astype(np.float32)
    config = with_image_size("vit", stored, (48, 20))
    got = resized({"embeddings": {"pos": table}}, stored, config)["embeddings"]["pos"]
    grid = torch.from_numpy(table)[:, 1:].reshape(1, 4, 8, -1).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(grid, size=(6, 5), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(got[:, 1:], want.flatten(2).mT, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got[:, :1], table[:, :1])


PROCESSORS = {
    "ViT": ({"size": {"height": 32, "width": 32}}, {"size": {"height": 24, "width": 48}}),
    "DeiT": (
        {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 30, "width": 60}, "crop_size": {"height": 24, "width": 48}},
    ),
    "CLIP": (
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 30, "width": 60}, "crop_size": {"height": 24, "width": 48}},
    ),
    "Bit": (
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 24, "width": 48}, "crop_size": {"height": 24, "width": 48}},
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_set_to_a_rectangle_equals_one_that_was_made_for_it(name):
    given, wanted = PROCESSORS[name]
    kind = getattr(transformers, f"{name}ImageProcessorPil")
    processor, plain = kind(**given), kind(**(given | wanted))
    image_processors.set_image_size(processor, (24, 48))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    got, want = (each(image, return_tensors="np")["pixel_values"] for each in (processor, plain))
    assert got.shape == (1, 3, 24, 48)
    np.testing.assert_array_equal(got, want)
    assert processor.to_dict() == plain.to_dict()
    image_processors.set_image_size(processor, 64)  # Back to a square.
    assert processor(image, return_tensors="np")["pixel_values"].shape == (1, 3, 64, 64)


def test_a_processor_whose_pictures_are_always_squares_is_refused_for_a_rectangle():
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32})
    with pytest.raises(ConfigError, match=r"ConvNextImageProcessorPil cannot be given the size 24x48: .*ViT"):
        image_processors.set_image_size(processor, (24, 48))


def same_vectors(folder, module, params, given):
    """Asserts that transformers' dual encoder gives our embeddings of the pictures [B C S1 S2]."""
    theirs, info = transformers.VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        want = theirs.eval().get_image_features(torch.from_numpy(given))
    want = getattr(want, "pooler_output", want).numpy()
    got = module.apply({"params": params}, jnp.asarray(given.transpose(0, 2, 3, 1)))[0]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.asarray(got), want)]
    np.testing.assert_allclose(*unit, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("vision", [tiny.VIT | PATCHES, tiny.BEIT | WIDE, TOWERS["swinv2"]], ids=str)
def test_a_dual_encoder_of_rectangles_is_exported_and_read_back(vision, tmp_path):
    module, params = tiny.dual(vision=vision)
    lit_jax.save(tmp_path, module, params)
    stored = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    assert stored["image_size"] == vision["image_size"] and stored["patch_size"] == vision["patch_size"]
    again, same = lit_jax.load(tmp_path)
    assert again.config == module.config
    jax.tree.map(np.testing.assert_array_equal, same, params)
    images = pixels(module.config.vision.image_size).transpose(0, 3, 1, 2).copy()
    same_vectors(tmp_path, module, params, images)


# Name -> (tower, size of the pictures, size in its config, rows of the position table).
RUNS = {
    "vit": (tiny.VIT, (24, 48), (24, 48), 3 * 6 + 1),
    "dinov2": (tiny.DINOV2, (24, 48), 56, 7 * 7 + 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_rectangles_is_exported_for_pictures_of_that_size(name, tmp_path):
    from lit_jax.tools.export import export

    hf, size, own, rows = RUNS[name]
    tiny.write_towers(tmp_path, vision=hf)
    tiny.write_pairs(tmp_path / "pairs")
    config = tiny.config(tmp_path, steps=3, data__test="", model__image_size=size, data__augment="crop")
    config["model"]["lock_towers"] = "UU"
    train(config, tmp_path / "run")
    assert read_trained(tmp_path / "run").params["vision"]["embeddings"]["pos"].shape[1] == rows
    train(config | {"steps": 4}, tmp_path / "run")  # The run continues from its workdir.
    export(tmp_path / "run", tmp_path / "out")
    module, params = lit_jax.load(tmp_path / "out")
    assert module.config.vision.image_size == own
    processor = load_processor(tmp_path / "out")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    given = processor(images=image, return_tensors="np")["pixel_values"]
    assert given.shape == (1, 3, *size)
    same_vectors(tmp_path / "out", module, params, given)
    images = jnp.asarray(given.transpose(0, 2, 3, 1))
    want = module.apply({"params": params}, images)[0]
    np.testing.assert_allclose(lit_jax.Embedder(tmp_path / "out").pictures([image]), want, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "vision", [tiny.VIT | PATCHES, tiny.DINOV2 | {"patch_size": 4}], ids=["vit", "dinov2"]
)
def test_programs_take_pictures_of_the_height_and_width_of_the_processor(vision, tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX files are run with lit_jax[onnx]")
    module, params = tiny.dual(vision=vision)
    processor = tiny.processor()
    image_processors.set_image_size(processor.image_processor, (24, 20))
    programs.write(tmp_path, module, params, processor, ["onnx", "stablehlo"])
    program, _ = towers.programs(module, params, with_mask=True, compute=module.compute, size=(24, 20))
    inputs = program.example(batch=5, seed=3)
    assert inputs["pixel_values"].shape == (5, 3, 24, 20)
    got = onnx_files.run(tmp_path / "onnx" / "vision_model.onnx", inputs)
    want = jax.jit(program.call)(program.params, inputs)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
