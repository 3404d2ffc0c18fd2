from lit_jax.evals.protocol import differences, fingerprint, pixels_in_words, preprocessing
from lit_jax.utils._transformers import transformers
from tests import tiny


def test_a_fingerprint_depends_on_values_and_not_on_their_order():
    protocol = {"ties": "lower index first", "templates": ["a {}", "ü {}"], "size": {"height": 8, "width": 9}}
    assert fingerprint(protocol) == fingerprint({name: protocol[name] for name in reversed(protocol)})
    for change in ({"ties": "mean"}, {"templates": ["ü {}", "a {}"]}, {"size": {"height": 9, "width": 8}}):
        assert fingerprint(protocol | change) != fingerprint(protocol)


def test_preprocessing_holds_the_numbers_that_change_pixels():
    fields, again = preprocessing(tiny.image_processor(32)), preprocessing(tiny.image_processor(32))
    assert fields == again and fields["size"] == {"height": 32, "width": 32}
    for change in ({"image_mean": [0, 0, 0]}, {"resample": 3}, {"size": {"height": 48, "width": 48}}):
        processor = tiny.image_processor(32)
        for name, value in change.items():
            setattr(processor, name, value)
        assert fingerprint(preprocessing(processor)) != fingerprint(fields), change


def test_preprocessing_is_described_in_words():
    assert pixels_in_words(preprocessing(tiny.image_processor(32))).startswith(
        "resized to 32 x 32, bilinear; times"
    )
    patches = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=18)
    words = pixels_in_words(preprocessing(patches))
    assert words.startswith(
        "resized to at most 18 patches of 8 pixels in their own shape, bilinear; times 0.00392157"
    )


def test_differences_are_named_by_their_path():
    protocol = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert differences(protocol, {"a": {"b": 1, "c": [2]}}) == [("a.c", [1], [2]), ("d", 2, None)]
    assert differences(protocol, protocol) == []
