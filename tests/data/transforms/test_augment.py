"""Random changes of pictures: what each one may do, and that it is a function of a number."""

import random

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.transforms.augment import AUGMENTS, OPS, Augment

DOT = np.full((32, 32, 3), 200, np.uint8)
DOT[20:24, 22:26] = (250, 40, 90)
PICTURE = Image.fromarray(DOT)


def changed(op, magnitude, sign=1):
    return np.asarray(OPS[op](PICTURE, magnitude, sign))


def dot(pixels):
    """The centre of the dot, as x and y."""
    y, x = np.nonzero((pixels[..., 0] > 215) & (pixels[..., 1] < 110))
    return x.mean(), y.mean()


def test_half_of_the_pictures_are_mirrored_if_that_is_requested():
    flip = AUGMENTS["flip"]
    flipped = [np.array_equal(flip.change(PICTURE, random.Random(key)), DOT[:, ::-1]) for key in range(200)]
    same = [np.array_equal(flip.change(PICTURE, random.Random(key)), DOT) for key in range(200)]
    assert 70 < sum(flipped) < 130 and sum(flipped) + sum(same) == 200


def test_a_crop_keeps_its_share_of_the_picture_and_stays_inside():
    for width, height in ((400, 300), (20, 900), (1, 1), (1, 5000)):
        for key in range(200):
            left, top, right, bottom = Augment(area=0.5).crop(width, height, random.Random(key))
            assert 0 <= left < right <= width + 1e-9 and 0 <= top < bottom <= height + 1e-9
            if (width, height) == (400, 300):
                assert 0.5 <= (right - left) * (bottom - top) / (400 * 300) <= 1
    assert Augment().crop(400, 300, random.Random(0)) is None


def test_a_crop_for_wide_pictures_is_as_wide_as_they_are_for_the_same_draws():
    seen = 0
    for key in range(50):
        boxes = [Augment(area=0.1).crop(2000, 1000, random.Random(key), aspect) for aspect in (1.0, 2.0)]
        sides = [(right - left, bottom - top) for left, top, right, bottom in boxes]
        if all(width < 2000 and height < 1000 for width, height in sides):
            np.testing.assert_allclose(sides[1][0] / sides[1][1], 2 * sides[0][0] / sides[0][1])
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("op", range(len(OPS)))
def test_every_step_of_randaugment_keeps_size_and_mode(op):
    for magnitude in (0.0, 0.3, 1.0):
        for sign in (1, -1):
            out = OPS[op](PICTURE, magnitude, sign)
            assert out.size == (32, 32) and out.mode == "RGB"


@pytest.mark.parametrize("op", range(len(OPS) - 2))
def test_a_step_of_no_magnitude_changes_nothing(op):
    np.testing.assert_array_equal(changed(op, 0.0), DOT)


@pytest.mark.parametrize(
    ("op", "moved"), [(3, (-14.4, 0)), (4, (0, -14.4)), (1, (-1.65, 0)), (2, (0, -2.25))]
)
def test_a_picture_is_moved_and_sheared_about_its_middle(op, moved):
    x, y = dot(DOT)
    got = dot(changed(op, 1.0))
    np.testing.assert_allclose(got, (x + moved[0], y + moved[1]), atol=0.6)


@pytest.mark.parametrize("op", range(1, len(OPS)))
def test_a_step_of_full_magnitude_changes_the_picture(op):
    assert not np.array_equal(changed(op, 1.0), DOT)


def test_the_order_of_draws_never_changes():
    """The expected draws are fixed: no new version of anything may change the pictures of a run that is resumed."""
    crop = Augment(area=0.5).crop(100, 100, random.Random(7))
    np.testing.assert_allclose(crop, (17.19556, 0.72764, 90.77883, 90.68238), atol=1e-5)
