"""Image processors that a file describes wrongly are refused in one sentence; those of supported types are read."""

import json

import numpy as np
import pytest

from lit_jax.data.transforms.image_processor import pixels_of
from lit_jax.hf.processor import load_image_processor
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, LitJaxError, WeightError
from tests.bad_pictures import noise

SQUARE = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
# Spelled as published, for pictures of 32 px.
PUBLISHED = {
    "vit": SQUARE | {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
    "an old vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 2},
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
    },
    "an old clip": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 36,
        "crop_size": 32,
        "do_resize": True,
    },
    "siglip": {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "size": {"height": 32, "width": 32},
        "do_convert_rgb": None,
        "rescale_factor": 0.00392156862745098,
    },
    "bit": {
        "image_processor_type": "BitImageProcessorFast",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "data_format": "channels_first",
        "device": None,
        "input_data_format": None,
        "return_tensors": None,
        "disable_grouping": None,
    },
}


def written(folder, fields, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_published_folders_say_is_read_to_the_same_bits(name, tmp_path):
    folder = written(tmp_path, PUBLISHED[name])
    ours, picture = load_image_processor(folder), noise((50, 40))
    assert pixels_of(ours).size == 32
    theirs = getattr(transformers, type(ours).__name__)(
        **{field: value for field, value in PUBLISHED[name].items() if not field.endswith("_type")}
    )
    np.testing.assert_array_equal(ours(picture)["pixel_values"][0], theirs(picture)["pixel_values"][0])


WRONG = [
    *(("size", value) for value in (0, -1, "text", 32.5, float("nan"), True, {}, [32], [32, 32, 32])),
    *(("size", {"height": side, "width": 32}) for side in (100_000, 20_000, 0, -1, "32", 32.5)),
    ("size", {"shortest_edge": 5_000}),
    ("crop_size", {"height": 10**5, "width": 10**5}),
    ("pad_size", {"height": 10**5, "width": 10**5}),
    ("min_pixels", 10**12),
    *(("resample", value) for value in (99, -1, "bicubic", 2.0, True)),
    *(
        (name, value)
        for name in ("image_mean", "image_std")
        for value in ([0.5], [0.5] * 4, [], "x", [1, 1, 1e999])
    ),
    *(("image_std", value) for value in (0, [0.5, 0, 0.5], [0.5, float("nan"), 0.5], -1)),
    *(("rescale_factor", value) for value in (0, -1, float("nan"), "1/255", 1e300, [1])),
    *(
        (name, "yes")
        for name in ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb")
    ),
    *(("max_num_patches", value) for value in (0, -1, 2.5, "many", 10**6, True)),
    *(("patch_size", value) for value in (0, -1, 2.5, 10**6, True)),
    ("image_processor_type", 7),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
@pytest.mark.parametrize("nested", [False, True])
def test_a_field_that_cannot_be_used_is_named_before_it_is_read(field, value, nested, tmp_path, monkeypatch):
    fields = SQUARE | {field: value}
    written(tmp_path, SQUARE)
    if nested:
        written(tmp_path, {"image_processor": fields}, "processor_config.json")
    else:
        written(tmp_path, fields)
    monkeypatch.setattr("lit_jax.hf.image_processors.auto_image_processor", lambda: None)
    with pytest.raises(
        WeightError, match=rf"processor_config\.json: {field}=.* is not usable; wanted"
    ) as error:
        load_image_processor(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"max_num_patches": 16_384, "patch_size": 32},
            "patch_size 32, which is 16777216 pixels; at most 4194304 are usable",
        ),
        (
            {"max_num_patches": 1_024, "patch_size": None},
            "patch_size=None is not usable; wanted a whole number",
        ),
        ({"max_num_patches": None}, "max_num_patches=None is not usable; wanted a whole number"),
    ],
)
def test_patches_that_are_too_many_or_unknown_are_refused_in_one_sentence(fields, message, tmp_path):
    naflex = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 16, "max_num_patches": 256}
    assert pixels_of(load_image_processor(written(tmp_path, naflex))).size == 256
    with pytest.raises(WeightError, match=message) as error:
        load_image_processor(written(tmp_path, naflex | fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"do_center_crop": True},
        {"do_center_crop": True, "crop_size": None},
        {"size": None},
        {"size": {"height": 32}},
        {"size": {"longest_edge": 32}},
        {"resample": None},
        {"image_mean": None},
        {"image_std": None},
        {"rescale_factor": None},
    ],
)
def test_a_step_without_what_it_needs_is_refused_in_one_sentence(fields, tmp_path):
    with pytest.raises((WeightError, ConfigError)) as error:
        pixels_of(load_image_processor(written(tmp_path, SQUARE | fields)))
    assert isinstance(error.value, LitJaxError) and "\n" not in str(error.value)
