"""A decoded picture gives the pixels of its original, or its image processor is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.tools import decoded_pictures
from lit_jax.data.tools.decoded_pictures import check_decodable, decoded_file, description
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests.bad_pictures import encoded, noise
from tests.data.decoded import PROCESSORS

SQUARE = {"height": 32, "width": 32}
SIZES = [(64, 48), (48, 64), (333, 250), (31, 33), (32, 32), (36, 36), (7, 90), (300, 2), (1, 1)]
REFUSED = {
    "its own crop": (
        transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        "ConvNextImageProcessorPil does not leave a picture that it has resized as it is .* --resize N instead",
    ),
    "no resize": (
        transformers.CLIPImageProcessorPil(do_resize=False, crop_size=SQUARE),
        "CLIPImageProcessorPil does not resize pictures, .* --resize N instead",
    ),
    "no fixed size": (
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False),
        "needs uint8 of a fixed size",
    ),
    "no image processor": ("google/vit-base-patch16-224", "str is not a PIL image processor"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_decoded_picture_gives_the_pixels_of_its_original_to_the_bit(name):
    processor = PROCESSORS[name]
    check_decodable(processor)
    exact, training = make_decode(processor), make_train_decode(processor, "fast")
    for seed, size in enumerate(SIZES):
        data = encoded(noise(size, seed=seed), "JPEG")
        stored = decoded_file(processor, open_image(data))
        for decode in (exact, training):
            np.testing.assert_array_equal(decode(stored), exact(data), err_msg=str(size))
        assert stored.startswith(b"BM") and Image.open(io.BytesIO(stored)).mode == "RGB"


def test_the_ends_of_a_very_long_picture_are_cut_off_before_it_is_stored():
    processor = PROCESSORS["short edge"]
    picture = noise((1, 900))
    stored = decoded_file(processor, picture)
    assert open_image(stored).size == (32, 3200)
    decode = make_decode(processor)
    np.testing.assert_array_equal(decode(stored), decode(encoded(picture)))


def test_a_picture_that_would_have_too_many_pixels_is_not_stored(monkeypatch):
    monkeypatch.setattr(decoded_pictures, "MAX_PIXELS", 32 * 64)
    processor = PROCESSORS["short edge"]
    assert decoded_file(processor, noise((10, 20))) is not None
    assert decoded_file(processor, noise((10, 21))) is None


@pytest.mark.usefixtures("any_types")
@pytest.mark.parametrize("case", REFUSED)
def test_an_image_processor_whose_pixels_cannot_be_stored_is_refused(case):
    processor, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        check_decodable(processor)


def test_the_description_tells_processors_apart_and_is_the_same_in_each_process():
    texts = {name: description(processor) for name, processor in PROCESSORS.items()}
    assert len(set(texts.values())) == len(PROCESSORS)
    assert texts["square"] == description(transformers.ViTImageProcessorPil(size=SQUARE))
