"""The model under JAX's transformations: outputs are pytrees, and callers can jit and export their calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.utils.errors import ConfigError
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return VisionTextDualEncoderModel._of(*tiny.dual())


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(6, 99, (2, 7)),
        "pixel_values": rng.normal(size=(2, 3, 32, 32)).astype(np.float32),
    }


def test_a_jitted_call_gives_the_output_of_the_plain_call(model, inputs):
    options = {"return_loss": True, "output_hidden_states": True}
    plain = model(**inputs, **options)
    for given in (inputs, jax.tree.map(jnp.asarray, inputs)):
        jitted = jax.jit(lambda params, given=given: model(**given, params=params, **options))(model.params)
        assert type(jitted) is type(plain) and jitted.keys() == plain.keys()
        assert jax.tree.structure(jitted) == jax.tree.structure(plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), jitted, plain)


def test_functions_over_trees_see_inside_an_output(model, inputs):
    output = model(**inputs)
    host = jax.device_get(output)
    assert isinstance(host.logits_per_image, np.ndarray)
    assert isinstance(host.vision_model_output.pooler_output, np.ndarray)
    assert host["text_embeds"] is host.text_embeds and host.loss is None and "loss" not in host
    doubled = jax.tree.map(lambda leaf: 2 * leaf, output)
    np.testing.assert_array_equal(doubled.to_tuple()[0], 2 * output.logits_per_image)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(output)]
    assert ".vision_model_output.pooler_output" in names
    marks = jax.tree.map(lambda leaf: "x", output.text_model_output)
    assert marks.last_hidden_state == marks["last_hidden_state"] == "x"


def test_a_field_of_an_output_is_replaced_in_a_copy(model, inputs):
    output = model(**inputs)
    other = output.replace(loss=jnp.float32(3))
    assert other.loss == other["loss"] == 3 and output.loss is None
    assert other.text_embeds is output.text_embeds and next(iter(other)) == "loss"
    with pytest.raises(TypeError, match="lost"):
        output.replace(lost=1)


def test_what_a_jitted_call_closes_over_is_still_checked(model, inputs):
    for array in (np.asarray, jnp.asarray):
        pixels = array(255 * np.ones((2, 3, 32, 32), np.float32))
        with pytest.raises(ConfigError, match="image 0 of the batch has a pixel of 255"):
            jax.jit(lambda params, pixels=pixels: model.get_image_features(pixels, params))(model.params)


def test_a_model_is_exported_for_any_number_of_rows(model, inputs):
    (rows,) = export.symbolic_shape("rows")
    shapes = {
        name: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype) for name, value in inputs.items()
    }
    shapes["input_ids"] = jax.ShapeDtypeStruct(shapes["input_ids"].shape, jnp.int32)

    def logits(params, given):
        return model(**given, params=params, return_loss=True).logits_per_image

    exported = export.export(jax.jit(logits))(model.params, shapes)
    inputs["input_ids"] = inputs["input_ids"].astype(np.int32)
    for count in (1, 2):
        given = {name: value[:count] for name, value in inputs.items()}
        np.testing.assert_allclose(
            exported.call(model.params, given), model(**given).logits_per_image, rtol=0, atol=1e-5
        )


TYPES = [("vision", name) for name in VISION] + [("text", name) for name in TEXT]


@pytest.mark.parametrize(
    ("tower", "model_type"),
    [one if one[1] == "swin" else pytest.param(*one, marks=pytest.mark.slow) for one in TYPES],
)
def test_every_tower_is_exported_for_any_number_of_rows(tower, model_type):
    config = encoder_of(tower, model_type).config_of(tiny.TOWERS[model_type])
    module = encoder_of(tower, model_type).Model(config)
    (rows,) = export.symbolic_shape("rows")

    def given(count):
        if tower == "text":
            return (jax.ShapeDtypeStruct((count, 8), jnp.int32),) * 2
        return (jax.ShapeDtypeStruct((count, config.image_size, config.image_size, 3), jnp.float32),)

    params = jax.eval_shape(module.init, jax.random.key(0), *given(1))
    pooled = jax.jit(lambda params, *inputs: module.apply(params, *inputs).pooler_output)
    assert export.export(pooled)(params, *given(rows)).out_avals[0].shape[0] == rows
