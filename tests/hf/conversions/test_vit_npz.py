"""npz files of a single ViT are image towers: tests/fixtures/make_foreign.py says what their features are."""

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

NAMES = foreign.names("vit_npz")


def pooled(path, text):
    loaded = join.join_towers(join.ModelConfig(str(path), str(text)), compute=Compute())
    assert loaded.module.config.vision_type == "vit"
    assert [path for path in loaded.fresh if path.startswith("vision")] == []
    params = jax.tree.map(jnp.asarray, loaded.params)
    return loaded.module.apply({"params": params}, foreign.images(32), method="pool_images")


@pytest.mark.parametrize("name", NAMES)
def test_a_vit_gives_the_features_of_its_project(name, tmp_path, text):
    model = foreign.stored(name)
    path = foreign.write(tmp_path / "one", model)
    np.testing.assert_allclose(pooled(path, text), model["pooled"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pooled(path.parent, text), pooled(path, text))


@pytest.mark.parametrize(("name", "read"), [("vit_npz", pooled), ("lit_bert", None), ("siglip_npz", None)])
def test_the_params_of_a_training_checkpoint_are_read(name, read, tmp_path, text):
    model = foreign.stored(name)
    arrays = {key: foreign.drawn(key, tuple(shape)) for key, shape in model["shapes"].items()}
    stored = {f"params/{key}": value for key, value in arrays.items()}
    stored |= {f"opt/0/mu/{key}": value + 1 for key, value in arrays.items()} | {"extra/step": np.int64(3)}
    whole = foreign.write(tmp_path / "whole", model, without=model["shapes"], **stored)
    alone = foreign.write(tmp_path / "alone", model)
    if read:
        np.testing.assert_array_equal(read(whole, text), read(alone, text))
    else:
        (_, got), (_, want) = lit_jax.load(whole), lit_jax.load(alone)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_hybrid_and_arrays_that_are_missing_or_left_over_are_named(tmp_path, text):
    model = foreign.stored("vit_npz")
    root = {"conv_root/kernel": np.ones((7, 7, 3, 64), np.float32)}
    with pytest.raises(WeightError, match="a hybrid of a ResNet and a ViT, which is not implemented"):
        pooled(foreign.write(tmp_path / "a", model, **root), text)
    bias = "Transformer/encoderblock_1/LayerNorm_0/bias"
    with pytest.raises(WeightError, match=f"missing from the checkpoint: {bias}"):
        pooled(foreign.write(tmp_path / "b", model, without=(bias,)), text)
    with pytest.raises(WeightError, match="not in the table: more"):
        pooled(foreign.write(tmp_path / "c", model, more=np.ones(3, np.float32)), text)
    with pytest.raises(WeightError, match="BiT or ViT with a CLS token"):
        pooled(foreign.write(tmp_path / "d", model, without=("cls",)), text)


def test_a_vit_is_not_a_dual_encoder_and_has_pictures_but_no_texts(tmp_path):
    path = foreign.write(tmp_path, foreign.stored("vit_npz_own_positions"))
    with pytest.raises(WeightError, match="is a single tower where two are wanted"):
        lit_jax.load(path)
    found = load_image_processor(path)
    assert (dict(found.size), found.resample) == ({"height": 32, "width": 32}, 2)
    with pytest.raises(WeightError, match="a single image tower and has no tokenizer"):
        load_tokenizer(path)
