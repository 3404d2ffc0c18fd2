"""How a dual encoder pools, and which poolings a Hugging Face folder can hold."""

import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf.join import join_towers
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.train.build import locks_of
from lit_jax.train.partition import partition
from lit_jax.utils.errors import WeightError
from tests import tiny

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
TEXTS = {
    "input_ids": jnp.array([[2, 5, 6, 3], [2, 7, 3, 0]]),
    "attention_mask": jnp.array([[1] * 4, [1, 1, 1, 0]]),
}


def joined(folder, **fields):
    vision, text = tiny.write_towers(folder)
    return join_towers(ModelConfig(vision, text, projection_dim=16, **fields))


def embedded(module, params):
    return module.apply({"params": jax.tree.map(jnp.asarray, params)}, IMAGES, TEXTS)[:2]


@pytest.mark.slow
def test_the_pooled_vectors_are_projected(tmp_path):
    module, params, _ = joined(tmp_path, vision_pooling="cls_mean", text_pooling="last")
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    x = module.apply(variables, IMAGES, method="image_features")[1].last_hidden_state
    y = module.apply(variables, TEXTS, method="text_features")[1].last_hidden_state
    wanted = np.concatenate([x[:, 0], x[:, 1:].mean(axis=1)], axis=1), np.stack([y[0, 3], y[1, 2]])
    found = (
        module.apply(variables, IMAGES, method="pool_images"),
        module.apply(variables, TEXTS, method="pool_texts"),
    )
    for got, want, name, ours in zip(
        found, wanted, ("visual", "text"), embedded(module, params), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        y = want @ params[f"{name}_projection"]["kernel"]
        np.testing.assert_allclose(ours, y / np.linalg.norm(y, axis=1, keepdims=True), rtol=0, atol=1e-6)
    assert params["visual_projection"]["kernel"].shape == (64, 16)


def test_a_text_without_real_tokens_pools_to_finite_numbers():
    x, mask = jnp.ones((1, 3, 2)), jnp.zeros((1, 3), jnp.int32)
    for how in ("mean", "max", "cls", "last", "cls_mean"):
        assert np.isfinite(pool_tokens(how, x, mask)).all()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"vision_pooling": "mean"}, {"text_pooling": "cls_mean"}])
def test_our_own_layout_keeps_a_pooling_that_hf_refuses(fields, tmp_path):
    module, params, _ = joined(tmp_path, **fields)
    ((name, value),) = fields.items()
    with pytest.raises(WeightError, match=rf"{name}='{value}' has no place .*layout='lit_jax'"):
        lit_jax.save(tmp_path / "hf", module, params)
    lit_jax.save(tmp_path / "own", module, params, layout="lit_jax")
    config = json.loads((tmp_path / "own/config.json").read_text())
    assert config[name] == value and config["model_type"] == "lit-jax-dual-encoder"
    again, same = lit_jax.load(tmp_path / "own")
    assert again.config == module.config
    chex.assert_trees_all_equal(embedded(again, same), embedded(module, params))


def test_a_folder_of_hugging_face_is_read_as_hugging_face_reads_it(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path, module, params)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_pooling": "mean"}))
    assert lit_jax.load(tmp_path)[0].config == module.config


@pytest.mark.parametrize("value", ["median", 3, None, ["mean"]])
def test_an_unusable_pooling_in_a_folder_is_named(value, tmp_path):
    lit_jax.save(tmp_path, *tiny.dual(), layout="lit_jax")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_pooling": value}))
    with pytest.raises(WeightError, match=re.escape(f"text_pooling={value!r}; wanted one of pooler, cls")):
        lit_jax.load(tmp_path)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean", "last", "max"])
def test_a_missing_pooler_that_is_not_used_is_neither_new_nor_tuned(pooling, tmp_path, caplog):
    tiny.write_tower(tmp_path / "v", tiny.VIT, without="pooler/")
    tiny.write_tower(tmp_path / "t", tiny.BERT, seed=1, without="pooler/")
    model = ModelConfig(
        str(tmp_path / "v"), str(tmp_path / "t"), vision_pooling=pooling, text_pooling=pooling
    )
    loaded = join_towers(model)
    assert loaded.fresh == () and not caplog.records
    for letters in ("LL", "UU"):
        tuned, locked = partition(
            loaded.params, locks_of(ModelConfig(**vars(model) | {"lock_towers": letters}))
        )
        assert "pooler" in locked["vision"] and "pooler" in locked["text"]
        assert ("vision" in tuned) == (letters == "UU")


def test_from_towers_accepts_every_pooling(tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    module, params = lit_jax.from_towers(vision, text, vision_pooling="max", text_pooling="mean")
    assert module.config.own == {"vision_pooling": "max", "text_pooling": "mean"}
    facade = lit_jax.VisionTextDualEncoderModel.from_vision_text_pretrained(
        vision, text, vision_pooling="max", text_pooling="mean"
    )
    got = facade(pixel_values=IMAGES, **TEXTS)
    chex.assert_trees_all_close(
        (got.image_embeds, got.text_embeds), embedded(module, params), rtol=0, atol=1e-6
    )
