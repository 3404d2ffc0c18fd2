"""The image processors of all vision types are read without torchvision, and equal those of transformers."""

import json
import pickle

import jax
import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax.data.transforms.image_processor import make_decode, pixels_of
from lit_jax.hf import image_processors
from lit_jax.hf.processor import load_image_processor, processor_class, save_processor
from lit_jax.models.encoders import VISION
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.bad_pictures import encoded, noise

SQUARE = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
SMALLER = {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}
# All other classes have the fields of SQUARE.
FIELDS = {
    "CLIPImageProcessor": CROP,
    "BitImageProcessor": CROP,
    "DeiTImageProcessor": SMALLER,
    "ConvNextImageProcessor": {"size": {"shortest_edge": 32}},
    "ChineseCLIPImageProcessor": CROP,
    "Siglip2ImageProcessor": {"patch_size": 8, "max_num_patches": 16},
}
DINOV3 = SQUARE | {  # Spelled as facebook/dinov3-vitb16-pretrain-lvd1689m.
    "image_processor_type": "DINOv3ViTImageProcessorFast",
    **dict.fromkeys(("crop_size", "do_center_crop", "do_convert_rgb", "device", "disable_grouping")),
    **dict.fromkeys(("input_data_format", "return_tensors")),
    "data_format": "channels_first",
    "default_to_square": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
}
SIZES = [(64, 48), (48, 64), (31, 33), (7, 90), (300, 200), (32, 32), (1, 1)]
MEAN, STD = (np.array(DINOV3[name]).reshape(3, 1, 1) for name in ("image_mean", "image_std"))


def written(folder, fields, name="preprocessor_config.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("model_type", VISION)
def test_the_image_processor_of_every_vision_type_is_read_in_every_spelling(model_type, tmp_path):
    name = VISION[model_type].image_processor
    fields, picture = FIELDS.get(name, SQUARE), noise((50, 40))
    spellings = [
        {"image_processor_type": name},
        {"image_processor_type": f"{name}Fast"},
        {"feature_extractor_type": name.replace("ImageProcessor", "FeatureExtractor")},
    ]
    ours = [load_image_processor(written(tmp_path, fields | spelling)) for spelling in spellings]
    for one in ours:
        assert type(one).__name__ == f"{name}Pil" and one.backend == "pil" and pixels_of(one).size == 32
        got = one(picture, return_tensors="np")["pixel_values"]
        if name not in image_processors.OURS:
            want = getattr(transformers, f"{name}Pil")(**fields)(picture, return_tensors="np")
            np.testing.assert_array_equal(got, want["pixel_values"])
        else:
            np.testing.assert_array_equal(got, ours[0](picture, return_tensors="np")["pixel_values"])


def test_every_image_processor_is_the_one_that_transformers_has_for_the_type():
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as NAMES

    for model_type, encoder in VISION.items():
        if not encoder.reader:
            continue
        kind = model_type.removesuffix("_vision_model").removesuffix("_with_registers")
        names = NAMES["dinov3_vit" if kind == "dinov3_convnext" else kind]  # transformers has no row for it.
        assert names["torchvision"] == encoder.image_processor
        ours = encoder.image_processor in image_processors.OURS
        assert ("pil" in names) == (not ours)


def triangles(length, side):
    """[side, length]: the weights of bilinear resizing with antialiasing, in float64."""
    scale = length / side
    reach = max(scale, 1.0)
    centres = (np.arange(side) + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / reach, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", SIZES)
def test_dinov3_resizes_floats_as_two_products_of_matrices_do(size, tmp_path):
    picture = noise(size)
    images = load_image_processor(written(tmp_path, DINOV3))
    pixels = np.asarray(picture, np.float64).transpose(2, 0, 1) / 255
    resized = triangles(size[1], 32) @ pixels @ triangles(size[0], 32).T
    want = (resized - MEAN) / STD
    got = images(picture, return_tensors="np")["pixel_values"][0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    # In training, evaluation and embedding a picture has 8 bits when it is normalised.
    ours = pixels_of(images).normalise(make_decode(images)(encoded(picture))[None])[0]
    difference = np.abs(np.moveaxis(np.asarray(ours), -1, 0) - want) * STD * 255
    assert difference.max() <= 0.501


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_dinov3_equals_the_torchvision_class_of_transformers(size, resample, tmp_path):
    pytest.importorskip("torchvision")
    fields = DINOV3 | {"resample": resample, "do_center_crop": True, "crop_size": {"height": 24, "width": 28}}
    fields["size"] = {"shortest_edge": 30}
    picture = noise(size)
    theirs = transformers.DINOv3ViTImageProcessor(**fields)
    got = load_image_processor(written(tmp_path, fields))(picture, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(got, theirs(picture, return_tensors="np")["pixel_values"], rtol=0, atol=3e-5)


@pytest.mark.parametrize("model_type", VISION)
def test_every_image_processor_is_near_its_torchvision_class(model_type, tmp_path):
    pytest.importorskip("torchvision")
    name = VISION[model_type].image_processor
    fields = FIELDS.get(name, SQUARE) | {"image_processor_type": name}
    theirs = getattr(transformers, name)(**fields)
    assert theirs.backend == "torchvision"
    ours = load_image_processor(written(tmp_path, fields))
    for size in SIZES[:5]:
        got, want = (
            np.asarray(one(noise(size), return_tensors="np")["pixel_values"]) for one in (ours, theirs)
        )
        levels = np.abs(got - want) * np.reshape(ours.image_std, (3, 1, 1)) * 255
        # Pillow rounds between its two passes, which bicubic weights magnify at a few pixels of noise.
        assert levels.mean() <= 0.5 and (ours.resample == 3 or levels.max() <= 1.01), levels.max()


def test_dinov3_is_saved_as_transformers_names_it_and_read_again(tmp_path):
    images = load_image_processor(written(tmp_path / "v", DINOV3))
    save_processor(tmp_path / "both", processor_class()(images, tiny.tokenizer()))
    stored = json.loads((tmp_path / "both" / "preprocessor_config.json").read_text())
    assert stored["image_processor_type"] == "DINOv3ViTImageProcessor"
    face = lit_jax.VisionTextDualEncoderProcessor.from_pretrained(tmp_path / "both")
    batch = face(images=noise(), text=["a red square"], return_tensors="jax")
    assert isinstance(batch["pixel_values"], jax.Array)
    np.testing.assert_array_equal(batch["pixel_values"], images(noise(), return_tensors="np")["pixel_values"])


def test_a_folder_without_a_class_goes_by_the_type_of_its_model(tmp_path):
    written(tmp_path, SQUARE)
    written(tmp_path, tiny.DINOV3, "config.json")
    assert type(load_image_processor(tmp_path)).__name__ == "DINOv3ViTImageProcessorPil"


@pytest.mark.parametrize(
    ("resample", "message"),
    [
        (3, "resample=3 gives values that pictures of 8 bits cannot hold; set resample to 2"),
        (0, "resample=0 gives values"),
    ],
)
def test_a_filter_that_dinov3_cannot_train_with_is_refused_in_one_sentence(resample, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as error:
        pixels_of(load_image_processor(written(tmp_path, DINOV3 | {"resample": resample})))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Sam3ImageProcessor", "Lfm2VlImageProcessor", "VivitImageProcessorFast"])
def test_a_class_that_exists_only_for_torchvision_is_named_in_a_whole_sentence(name, tmp_path):
    with pytest.raises(WeightError) as error:
        load_image_processor(written(tmp_path, SQUARE | {"image_processor_type": name}))
    assert str(error.value).endswith(
        f"cannot be read: {name.removesuffix('Fast')} exists for torchvision alone; lit_jax itself computes "
        "DINOv3ViTImageProcessor, Tipsv2ImageProcessor; "
        "give the folder an image_processor_type that `lit-jax encoders` lists"
    )


def test_a_picture_of_floats_is_resized_like_its_bytes(tmp_path):
    images = load_image_processor(written(tmp_path, DINOV3))
    array = np.asarray(noise((40, 50)))
    want = images(Image.fromarray(array), return_tensors="np")["pixel_values"]
    got = images((array / 255).astype(np.float32), do_rescale=False, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", [*image_processors.OURS.values(), image_processors.half_even_crop])
def test_our_image_processors_can_be_sent_to_other_processes(make):
    processor = make()(do_rescale=False)
    copy = pickle.loads(pickle.dumps(processor))
    assert type(copy) is make() and copy.to_dict() == processor.to_dict()
    assert not hasattr(image_processors, "SiglipImageProcessorPil")
