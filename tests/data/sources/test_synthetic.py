"""Drawings show what their captions say, and are the same on every machine."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.sources.synthetic import CAPTIONS, COLOURS, SHAPES, SIZES
from lit_jax.utils.errors import DataError


def pixels(record):
    return np.asarray(Image.open(io.BytesIO(record["image"])))


def words(record):
    """Size, colour, shape and ground, out of the first caption."""
    _, size, colour, shape, _, _, ground, _ = record["captions"][0].split()
    return size, colour, shape, ground


def test_a_picture_has_the_colours_and_the_size_that_its_captions_name():
    areas = {}
    for record in open_source("shapes:537/train"):
        size, colour, shape, ground = words(record)
        image = pixels(record)
        shown = (image == COLOURS[colour]).all(-1)
        assert (shown | (image == COLOURS[ground]).all(-1)).all() and not shown.all()
        areas.setdefault(shape, {}).setdefault(size, []).append(shown.sum())
        for caption, template in zip(record["captions"], CAPTIONS, strict=True):
            assert caption == template.format(size=size, colour=colour, shape=shape, ground=ground)
    for shape in SHAPES:
        assert max(areas[shape]["small"]) < min(areas[shape]["large"]), shape


def test_shapes_cover_the_share_of_their_circle_that_geometry_says():
    wanted = {
        "circle": np.pi,
        "ring": np.pi * 3 / 4,
        "square": 2,
        "triangle": 3 * np.sqrt(3) / 4,
        "star": 5 * 0.4 * np.sin(np.pi / 5),
        "cross": 0.36 + 4 * 0.6 * (np.sqrt(1 - 0.09) - 0.3),
    }
    areas_of = {shape: [] for shape in SHAPES}
    for record in open_source("shapes:537/train"):
        size, colour, shape, _ = words(record)
        if size == "large":
            areas_of[shape].append((pixels(record) == COLOURS[colour]).all(-1).sum())
    for shape, areas in areas_of.items():
        radius = SIZES["large"] * 64
        assert np.mean(areas) == pytest.approx(wanted[shape] * radius**2, rel=0.12), shape


def test_the_splits_share_no_combination_and_repeat_none_before_all_were_drawn():
    train, test = (
        [words(record) for record in open_source(spec)] for spec in ("shapes:537/train", "shapes:135/test")
    )
    assert not set(train) & set(test)
    assert len(set(train)) + len(set(test)) == len(SHAPES) * len(COLOURS) * (len(COLOURS) - 1) * len(SIZES)
    again = open_source("shapes:600/train")
    assert words(again[537]) == train[0] and again[537]["image"] != again[0]["image"]


def test_a_record_is_a_function_of_its_number_alone():
    few, many = open_source("shapes:8/train"), open_source("shapes:100/train")
    assert [few[i] for i in range(8)] == [many[i] for i in range(8)]
    # If the hash changes, raise VERSION; otherwise a resumed run would continue with other pictures.
    said = hashlib.sha256(repr([record["captions"] for record in many]).encode()).hexdigest()
    assert said[:16] == "c2aee294bc872380"
    assert few.fingerprint() != many.fingerprint()


def test_a_label_names_colour_and_shape():
    source = open_source("shapes:40/test")
    assert isinstance(source, Source) and len(source.class_names) == 48
    for record in source:
        _, colour, shape, _ = words(record)
        assert source.class_names[record["label"]] == f"{colour} {shape}"


@pytest.mark.parametrize("name", ["", "12", "0/train", "x/train", "5/all", "-3/test", "5/train[:2]"])
def test_a_name_that_is_not_a_number_and_a_split_is_refused(name):
    with pytest.raises(DataError, match="want shapes:N/train or shapes:N/test"):
        open_source(f"shapes:{name}")
