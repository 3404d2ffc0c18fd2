"""A picture that is stored decoded is copied instead of processed, with the same pixels and the same errors."""

import pickle

import numpy as np
import pytest

from lit_jax.data.tools.decoded_pictures import decoded_file
from lit_jax.data.transforms import bmp, decoded_files
from lit_jax.data.transforms.decoded_files import DecodedFiles
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.resized import resized
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.utils.errors import DataError
from tests.bad_pictures import encoded, noise
from tests.data.decoded import PROCESSORS

SIZES = [(64, 48), (48, 64), (33, 32), (32, 35), (36, 36), (7, 90), (2, 300)]


@pytest.fixture
def calls(monkeypatch):
    """The pictures of which a processor was asked where it cuts them."""
    seen, window = [], decoded_files._window
    monkeypatch.setattr(decoded_files, "_window", lambda *given: seen.append(given[1:]) or window(*given))
    return seen


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_stored_picture_is_copied_with_the_pixels_that_processing_gives(name):
    processor = PROCESSORS[name]
    files = DecodedFiles(processor)
    for size in SIZES:
        data = decoded_file(processor, noise(size))
        want = resized(processor, open_image(data))
        got = files(data)
        np.testing.assert_array_equal(got, want, err_msg=str(size))
        assert got.dtype == want.dtype and got.flags.c_contiguous


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_picture_that_would_be_resized_or_padded_is_not_copied(name):
    files = DecodedFiles(PROCESSORS[name])
    for size in ((31, 33), (40, 35), (64, 64), (35, 300)):
        assert files(bmp.write(np.asarray(noise(size)))) is None
    assert files(encoded(noise((32, 32)))) is None


def test_a_picture_with_one_side_of_a_square_is_resized():
    files = DecodedFiles(PROCESSORS["square"])
    assert files(bmp.write(np.asarray(noise((32, 50))))) is None
    assert files(bmp.write(np.asarray(noise((32, 32))))) is not None


def test_a_processor_that_changes_pixels_of_that_size_is_asked_for_every_picture():
    class Turning(type(PROCESSORS["square"])):
        def resize(self, image, *args, **kwargs):
            return super().resize(image, *args, **kwargs)[:, ::-1]

    processor = Turning(size={"height": 32, "width": 32})
    data = bmp.write(np.asarray(noise((32, 32))))
    assert DecodedFiles(processor)(data) is None
    np.testing.assert_array_equal(make_decode(processor)(data), np.asarray(open_image(data))[::-1])


def test_where_a_size_is_cut_is_looked_up_once_and_what_is_remembered_is_bounded(calls, monkeypatch):
    monkeypatch.setattr(decoded_files, "_MOST_SIZES", 2)
    processor = PROCESSORS["short edge"]
    files = DecodedFiles(processor)
    sizes = [(32, 40), (32, 41), (32, 40), (32, 42), (32, 42), (32, 40)]
    for size in sizes:
        data = bmp.write(np.asarray(noise(size)))
        np.testing.assert_array_equal(files(data), resized(processor, open_image(data)))
    assert calls == [(40, 32), (41, 32), (42, 32), (40, 32)]


@pytest.mark.parametrize("name", ["short edge", "DINOv3"])
def test_both_decoders_copy_and_so_does_a_copy_in_another_process(name, calls):
    processor = PROCESSORS[name]
    data = decoded_file(processor, noise((50, 40)))
    want = resized(processor, open_image(data))
    decode = make_train_decode(processor, "fast")
    for read in (make_decode(processor), decode, pickle.loads(pickle.dumps(decode))):
        np.testing.assert_array_equal(read(data), want)
    assert len(calls) == 3


def test_a_flip_is_drawn_for_copied_pictures_as_for_others(monkeypatch):
    processor = PROCESSORS["square"]
    data = decoded_file(processor, noise((50, 40)))
    decode = make_train_decode(processor, "exact", "flip")
    copied = [decode(data, key) for key in range(8)]
    monkeypatch.setattr(DecodedFiles, "__call__", lambda *_: None)
    for key, pixels in enumerate(copied):
        np.testing.assert_array_equal(pixels, decode(data, key))
    assert len({pixels.tobytes() for pixels in copied}) == 2


def test_a_random_crop_is_taken_from_the_stored_picture(calls):
    processor = PROCESSORS["short edge"]
    data = decoded_file(processor, noise((90, 40)))
    decode = make_train_decode(processor, "fast", "crop")
    assert len({decode(data, key).tobytes() for key in range(8)}) == 8 and not calls


def test_a_damaged_file_is_refused_in_the_same_words():
    processor = PROCESSORS["square"]
    data = decoded_file(processor, noise((50, 40)))
    for cut in (0, 10, 53, 54, 100, len(data) - 1):
        with pytest.raises(DataError) as want:
            open_image(data[:cut])
        for decode in (make_decode(processor), make_train_decode(processor)):
            with pytest.raises(DataError) as got:
                decode(data[:cut])
            assert str(got.value) == str(want.value)
