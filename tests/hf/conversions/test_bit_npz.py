"""npz files of Google's Big Transfers are image towers: tests/fixtures/make_foreign.py says what their features are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.hf import join
from lit_jax.hf.processor import load_image_processor, load_tokenizer
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

STEM = "resnet/root_block/standardized_conv2d/kernel"
KERNEL = "resnet/block2/unit02/b/standardized_conv2d/kernel"
SHORTCUT = "resnet/block3/unit01/a/proj/standardized_conv2d/kernel"


def pooled(path, text):
    loaded = join.join_towers(join.ModelConfig(str(path), str(text)), compute=Compute())
    assert loaded.module.config.vision_type == "bit"
    assert [path for path in loaded.fresh if path.startswith("vision")] == []
    params = jax.tree.map(jnp.asarray, loaded.params)
    return loaded.module.apply({"params": params}, foreign.images(64), method="pool_images")


def test_a_bit_gives_the_features_of_its_project(tmp_path, text):
    model = foreign.stored("bit_npz")
    path = foreign.write(tmp_path / "one", model)
    np.testing.assert_allclose(pooled(path, text), model["pooled"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pooled(path.parent, text), pooled(path, text))


def test_the_numbers_that_some_files_give_to_convolutions_change_nothing(tmp_path, text):
    model = foreign.stored("bit_npz")
    usual = (STEM, KERNEL, SHORTCUT)
    numbered = {
        name.replace("/kernel", f"_{i}/kernel"): foreign.drawn(name, tuple(model["shapes"][name]))
        for i, name in enumerate(usual)
    }
    other = foreign.write(tmp_path / "numbered", model, without=usual, **numbered)
    np.testing.assert_array_equal(pooled(other, text), pooled(foreign.write(tmp_path / "one", model), text))


def test_arrays_that_are_missing_left_over_or_of_another_shape_are_named(tmp_path, text):
    model = foreign.stored("bit_npz")

    def refused(said, **changes):
        with pytest.raises(WeightError, match=said) as error:
            pooled(foreign.write(tmp_path / str(len(list(tmp_path.iterdir()))), model, **changes), text)
        assert "\n" not in str(error.value)

    for name in (STEM, KERNEL, SHORTCUT, "resnet/group_norm/beta", "resnet/block1/unit01/c/group_norm/gamma"):
        refused(f"missing from the checkpoint: {name}", without=(name,))
    refused("not in the table: resnet/more", **{"resnet/more": np.ones(3, np.float32)})
    refused(
        "the checkpoint: resnet/block2/unit01/c/.*/kernel",
        without=[name for name in model["shapes"] if name.startswith("resnet/block2/unit01/")],
    )
    refused(
        "the checkpoint: resnet/block2/unit01/",
        without=[name for name in model["shapes"] if name.startswith("resnet/block2/")],
    )
    flat = {STEM: np.ones(3, np.float32)}
    refused(f"{re.escape(STEM)} has shape .3,. where 4 axes are wanted", without=(STEM,), **flat)


def test_a_bit_has_pictures_but_no_texts(tmp_path):
    path = foreign.write(tmp_path, foreign.stored("bit_npz"))
    with pytest.raises(WeightError, match="is a single tower where two are wanted"):
        lit_jax.load(path)
    found = load_image_processor(path)
    assert (dict(found.size), found.resample) == ({"height": 224, "width": 224}, 2)
    with pytest.raises(WeightError, match="a single image tower and has no tokenizer"):
        load_tokenizer(path)
