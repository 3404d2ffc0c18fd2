"""Keywords of transformers' methods that users' code passes: they do what they say, or are refused in a sentence."""

import jax
import jax.numpy as jnp
import pytest

from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.utils.errors import ConfigError
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return VisionTextDualEncoderModel._of(*tiny.dual())


@pytest.mark.parametrize(("method", "dtype"), [("to_bf16", "bfloat16"), ("to_fp16", "float16")])
def test_a_mask_says_which_params_are_cast(model, method, dtype):
    mask = jax.tree.map_with_path(lambda path, _: path[0].key == "text", model.params)
    cast = getattr(model, method)(model.params, mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(cast["text"])} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(cast["vision"])} == {jnp.dtype("float32")}
    with pytest.raises(ConfigError, match="mask is not a tree of the same structure as the params"):
        getattr(model, method)(mask={"text": True})


def test_a_model_is_saved_safely_or_not_at_all(model, tmp_path):
    model.save_pretrained(tmp_path, safe_serialization=True, commit_message="first")
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="safe_serialization=False writes a pickle"):
        model.save_pretrained(tmp_path / "other", safe_serialization=False)
    assert not (tmp_path / "other").exists()
