"""The model class of Hugging Face: the examples of the VisionTextDualEncoder documentation, and errors."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax import (
    FlaxVisionTextDualEncoderModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny


def tiny_config():
    return VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**tiny.VIT), transformers.BertConfig(**tiny.BERT), projection_dim=16
    )


@pytest.fixture(scope="module")
def model():
    return VisionTextDualEncoderModel(tiny_config())


def inputs(batch=2):
    rng = np.random.default_rng(0)
    return dict(
        input_ids=rng.integers(0, 11, (batch, 7)),
        pixel_values=rng.normal(size=(batch, 3, 32, 32)).astype(np.float32),
    )


@pytest.mark.slow
def test_the_configuration_example_runs(tmp_path):
    config_vision, config_text = transformers.ViTConfig(**tiny.VIT), transformers.BertConfig(**tiny.BERT)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        config_vision, config_text, projection_dim=512
    )
    model = VisionTextDualEncoderModel(config=config)
    assert model.config.vision_config.hidden_size == 32
    assert model.config.text_config.hidden_size == 24
    model.save_pretrained(tmp_path / "vit-bert")
    vision_text_config = VisionTextDualEncoderConfig.from_pretrained(tmp_path / "vit-bert")
    again = VisionTextDualEncoderModel.from_pretrained(tmp_path / "vit-bert", config=vision_text_config)
    chex.assert_trees_all_equal(again.params, model.params)


@pytest.mark.slow
def test_the_model_example_runs(tmp_path):
    tiny.write_tower(tmp_path / "vit", tiny.VIT)
    tiny.write_tower(tmp_path / "bert", tiny.BERT)
    processor = tiny.processor()
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(tmp_path / "vit", tmp_path / "bert")
    pictures = [np.full((40, 50, 3), value, np.uint8) for value in (0, 200)]

    batch = processor(
        text=["a red square", "the blue circle on white"], images=pictures, return_tensors="np", padding=True
    )
    outputs = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        return_loss=True,
    )
    loss, logits_per_image = outputs.loss, outputs.logits_per_image
    assert loss.shape == () and logits_per_image.shape == (2, 2)

    gradient = jax.grad(lambda p: model(**batch, params=p, return_loss=True).loss)(model.params)
    assert float(jnp.abs(gradient["visual_projection"]["kernel"]).max()) > 0

    model.save_pretrained(tmp_path / "vit-bert")
    processor.save_pretrained(tmp_path / "vit-bert")
    model = VisionTextDualEncoderModel.from_pretrained(tmp_path / "vit-bert")
    again = model(**batch)
    np.testing.assert_array_equal(again.logits_per_image, outputs.logits_per_image)
    probs = jax.nn.softmax(again.logits_per_image, axis=1)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)


def test_the_flax_name_is_the_same_class():
    assert FlaxVisionTextDualEncoderModel is VisionTextDualEncoderModel


def test_outputs_are_read_by_attribute_by_key_and_as_a_tuple(model):
    output = model(**inputs())
    assert list(output.keys()) == [
        "logits_per_image",
        "logits_per_text",
        "text_embeds",
        "image_embeds",
        "text_model_output",
        "vision_model_output",
    ]
    assert output["text_embeds"] is output.text_embeds is output[2]
    flat = model(**inputs(), return_dict=False)
    assert isinstance(flat, tuple) and len(flat) == 6
    np.testing.assert_array_equal(flat[1], output.logits_per_text)
    assert isinstance(flat[4], tuple)


def test_features_are_projected_and_not_normalised(model):
    batch = inputs()
    text = model.get_text_features(batch["input_ids"])
    image = model.get_image_features(batch["pixel_values"])
    assert text.shape == image.shape == (2, 16)
    lengths = np.linalg.norm(np.asarray(text), axis=1)
    assert np.abs(lengths - 1).max() > 1e-3
    output = model(**batch)
    np.testing.assert_allclose(output.text_embeds, text / lengths[:, None], rtol=1e-5)


def test_pixels_in_either_order_give_the_same_features(model):
    pixels = inputs()["pixel_values"]
    np.testing.assert_array_equal(
        model.get_image_features(pixels), model.get_image_features(pixels.transpose(0, 2, 3, 1))
    )


def test_a_zero_embedding_stays_zero_and_has_a_zero_gradient(model):
    params = model.params | {"text_projection": {"kernel": jnp.zeros((24, 16))}}
    batch = inputs()
    assert not np.asarray(model(**batch, params=params).text_embeds).any()
    gradient = jax.grad(lambda p: model(**batch, params=p, return_loss=True).loss)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_dropout_needs_a_key_and_follows_it(model):
    with pytest.raises(ConfigError, match="dropout_rng"):
        model(**inputs(), train=True)
    first, other, same = (
        model(**inputs(), train=True, dropout_rng=jax.random.key(seed)).text_embeds for seed in (1, 2, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.full((2, 7), 99)}, "range from 99 to 99; the tower's vocabulary has 99"),
        ({"input_ids": np.full((2, 7), -1)}, "range from -1"),
        ({"input_ids": np.zeros((2, 7))}, "input_ids are float64"),
        ({"token_type_ids": np.full((2, 7), 2)}, "token_type_ids range from 2 to 2; the tower has 2 types"),
        ({"position_ids": np.arange(7)[None] - 1}, "position_ids range from -1 to 5; the tower has 40 pos"),
        ({"position_ids": np.full((2, 7), 40)}, "position_ids range from 40"),
        ({"position_ids": np.zeros((2, 9), int)}, r"position_ids have shape \(2, 9\); wanted .*\(2, 7\)"),
        ({"attention_mask": np.ones((2, 9), int)}, r"attention_mask have shape \(2, 9\); wanted .*\(2, 7\)"),
        ({"pixel_values": np.zeros((2, 32, 32))}, r"shape \(2, 32, 32\); wanted \[batch, 3, height, width\]"),
        ({"pixel_values": np.zeros((3, 3, 32, 32))}, "found 2 texts and 3 images"),
    ],
)
def test_wrong_inputs_are_refused_before_xla_can_clamp_them(model, change, message):
    with pytest.raises(ConfigError, match=message):
        model(**(inputs() | change), return_loss=True)


def test_the_caller_can_jit_a_model_and_its_inputs(model):
    """As training loops for transformers 4 do."""
    batch = inputs() | {"attention_mask": np.ones((2, 7), int), "position_ids": np.arange(7)[None]}

    def loss(params, batch, key):
        return model(**batch, params=params, dropout_rng=key, train=True, return_loss=True).loss

    key = jax.random.key(3)
    got = jax.jit(loss)(model.params, batch, key)
    np.testing.assert_allclose(got, loss(model.params, batch, key), rtol=1e-5)
    ids = jax.jit(model.get_text_features)(batch["input_ids"])
    np.testing.assert_allclose(ids, model.get_text_features(batch["input_ids"]), rtol=1e-5, atol=1e-6)


def test_an_image_of_another_size_is_refused_by_vit(model):
    with pytest.raises(ConfigError, match="images are 48x48; this tower takes 32x32"):
        model.get_image_features(np.zeros((1, 3, 48, 48), np.float32))


def test_more_texts_than_images_are_fine_without_the_loss(model):
    batch = inputs() | {"pixel_values": inputs(3)["pixel_values"]}
    assert model(**batch).logits_per_text.shape == (2, 3)


def test_a_config_of_another_model_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    other = VisionTextDualEncoderConfig(vision_config=tiny.VIT, text_config=tiny.BERT, projection_dim=8)
    with pytest.raises(WeightError, match="not that of"):
        VisionTextDualEncoderModel.from_pretrained(tmp_path, config=other)


@pytest.mark.slow
def test_load_and_the_model_class_agree(model, tmp_path):
    model.save_pretrained(tmp_path)
    module, params = lit_jax.load(tmp_path)
    batch = inputs()
    image, text, scale = module.apply(
        {"params": params},
        jnp.asarray(batch["pixel_values"].transpose(0, 2, 3, 1)),
        {"input_ids": jnp.asarray(batch["input_ids"])},
    )
    np.testing.assert_allclose(scale * text @ image.T, model(**batch).logits_per_text, rtol=1e-5, atol=1e-5)


@pytest.fixture
def towers(tmp_path):
    return tmp_path, {
        "vision": tiny.write_tower(tmp_path / "vit", tiny.VIT),
        "text": tiny.write_tower(tmp_path / "bert", tiny.BERT),
    }


def join(folder, **options):
    return VisionTextDualEncoderModel.from_vision_text_pretrained(folder / "vit", folder / "bert", **options)


def test_keywords_reach_the_tower_that_they_name(towers):
    folder, written = towers
    model = join(folder, text_hidden_dropout_prob=0.3, vision_layer_norm_eps=1e-3, projection_dim=7)
    assert model.module.config.text.hidden_dropout_prob == 0.3
    assert model.module.config.vision.layer_norm_eps == 1e-3
    assert model.config.text_config.hidden_dropout_prob == 0.3 and model.config.projection_dim == 7
    chex.assert_trees_all_equal(model.params["text"], written["text"])


def test_a_config_takes_the_place_of_the_stored_one(towers):
    folder, _ = towers
    for config in (tiny.VIT | {"pooler_act": "relu"}, transformers.ViTConfig(**tiny.VIT, pooler_act="relu")):
        model = join(folder, vision_config=config)
        assert model.module.config.vision.pooler_act == "relu"
    with pytest.raises(WeightError, match="the config and the weights are of two models"):
        join(folder, text_config=tiny.BERT | {"intermediate_size": 50})


def test_ready_made_towers_are_taken_as_they_are(towers):
    folder, written = towers
    whole = join(folder, projection_dim=16)
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(
        vision_model=whole, text_model=whole, projection_dim=16
    )
    for tower, params in written.items():
        chex.assert_trees_all_equal(model.params[tower], params)
    np.testing.assert_allclose(model.get_image_features(inputs()["pixel_values"]).shape, (2, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text_hidden_dropout": 0.1},
            "text_hidden_dropout is not a field of a bert config; did you mean text_hidden_",
        ),
        ({"image_size": 3}, "unknown argument 'image_size'; those for a tower begin with vision_ or text_"),
        ({"vision_model": "vit"}, "the vision tower wants either a name or path, or vision_model="),
    ],
)
def test_an_unknown_keyword_is_refused(options, message, towers):
    with pytest.raises(ConfigError, match=message):
        join(towers[0], **options)


def test_a_tower_that_is_not_named_is_asked_for(towers):
    with pytest.raises(ConfigError, match="the text tower wants"):
        VisionTextDualEncoderModel.from_vision_text_pretrained(towers[0] / "vit")


@pytest.mark.slow
def test_code_for_transformers_4_runs_unchanged(towers):
    model = join(towers[0], vision_from_pt=True, text_from_pt=True)
    model.save_pretrained(towers[0] / "dual")
    again = FlaxVisionTextDualEncoderModel.from_pretrained(towers[0] / "dual", from_pt=True)
    again.params = again.to_bf16(again.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(again.to_fp32())} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(again.to_fp16())} == {jnp.dtype("float16")}
    half, full = (m(**inputs()).logits_per_image for m in (again, model))
    assert 0 < float(jnp.abs(half - full).max()) < 0.1
    features = again.get_text_features(inputs()["input_ids"], train=True, dropout_rng=jax.random.key(0))
    assert features.shape == (2, 512)


def test_positions_are_resized_if_asked_for(model):
    bigger = np.random.default_rng(1).normal(size=(2, 3, 48, 48)).astype(np.float32)
    features = model.get_image_features(bigger, interpolate_pos_encoding=True)
    output = model(inputs()["input_ids"], bigger, interpolate_pos_encoding=True)
    np.testing.assert_allclose(
        output.image_embeds, features / np.linalg.norm(features, axis=1, keepdims=True), rtol=1e-5
    )
    with pytest.raises(ConfigError, match="unless its positions are interpolated"):
        model(inputs()["input_ids"], bigger)


def test_features_in_training_follow_their_key(model):
    pixels, ids = inputs()["pixel_values"], inputs()["input_ids"]
    with pytest.raises(ConfigError, match="dropout_rng"):
        model.get_image_features(pixels, train=True)
    first, second = (
        model.get_text_features(ids, train=True, dropout_rng=jax.random.key(seed)) for seed in (1, 2)
    )
    assert np.abs(first - second).max() > 1e-4


def test_options_that_a_call_leaves_out_are_those_of_the_config(model):
    config = tiny_config()
    config.output_attentions = config.output_hidden_states = True
    other = VisionTextDualEncoderModel(config)
    output = other(**inputs())
    for tower, layers in ((output.vision_model_output, tiny.VIT), (output.text_model_output, tiny.BERT)):
        assert len(tower.attentions) == layers["num_hidden_layers"] == len(tower.hidden_states) - 1
    assert other(**inputs(), output_attentions=False).text_model_output.attentions is None
    assert model(**inputs()).text_model_output.hidden_states is None
    config.return_dict = False
    assert isinstance(other(**inputs()), tuple)
    assert not isinstance(other(**inputs(), return_dict=True), tuple)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_states_the_dtype_of_its_weights(model, dtype, tmp_path):
    params = {"float32": model.to_fp32, "bfloat16": model.to_bf16}[dtype]()
    model.save_pretrained(tmp_path / "out", params=params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.slow
def test_train_can_be_a_bool_for_both_towers():
    config = tiny_config()
    config.text_config.hidden_dropout_prob = config.vision_config.hidden_dropout_prob = 0.5
    model, batch = VisionTextDualEncoderModel(config), inputs()
    apply = functools.partial(
        model.module.apply,
        {"params": model.params},
        jnp.asarray(batch["pixel_values"]).transpose(0, 2, 3, 1),
        {"input_ids": jnp.asarray(batch["input_ids"])},
        rngs={"dropout": jax.random.key(0)},
    )
    chex.assert_trees_all_equal(apply(train=True), apply(train=("vision", "text")))
    chex.assert_trees_all_equal(apply(train=False), apply())
    assert not np.array_equal(apply(train=True)[1], apply()[1])
