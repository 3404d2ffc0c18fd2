"""Keywords that users pass to transformers' methods do what they say, or are refused in one sentence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.hf import save as saving
from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
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


def test_a_model_is_saved_as_safetensors_or_not_at_all(model, tmp_path):
    model.save_pretrained(tmp_path, safe_serialization=True, commit_message="first")
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="safe_serialization=False writes a pickle"):
        model.save_pretrained(tmp_path / "other", safe_serialization=False)
    assert not (tmp_path / "other").exists()


@pytest.fixture
def saved(tmp_path):
    saving.save(tmp_path / "m", *tiny.dual())
    return tmp_path / "m"


@pytest.mark.parametrize(
    "keywords",
    [
        {"local_files_only": True, "force_download": False},
        {"cache_dir": "/nowhere"},
        {"ignore_mismatched_sizes": False},
        {"projection_dim": 16},
        {"from_pt": True, "use_safetensors": True, "trust_remote_code": False, "variant": None},
    ],
)
def test_keywords_that_say_what_happens_anyway_are_accepted(saved, keywords):
    model = VisionTextDualEncoderModel.from_pretrained(saved, **keywords)
    assert model.config.projection_dim == 16


def test_the_initial_scale_changes_the_config_and_not_the_weights_as_in_transformers(saved):
    model = VisionTextDualEncoderModel.from_pretrained(saved, logit_scale_init_value=1.0)
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(saved, logit_scale_init_value=1.0)
    assert model.config.logit_scale_init_value == theirs.config.logit_scale_init_value == 1.0
    np.testing.assert_array_equal(model.params["logit_scale"], theirs.logit_scale.detach())
    with pytest.raises(WeightError, match="logit_scale_init_value='hot' is not usable"):
        VisionTextDualEncoderModel.from_pretrained(saved, logit_scale_init_value="hot")


def test_another_width_is_refused_with_the_call_that_makes_new_projections(saved):
    with pytest.raises(WeightError, match=r"from_vision_text_pretrained\(FOLDER, FOLDER, projection_dim=8\)"):
        VisionTextDualEncoderModel.from_pretrained(saved, projection_dim=8)
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(saved, saved, projection_dim=8)
    assert model.params["text_projection"]["kernel"].shape == (24, 8)


@pytest.mark.parametrize(
    ("method", "keywords", "message"),
    [
        ("from_pretrained", {"ignore_mismatched_sizes": True}, "would replace weights in silence"),
        ("from_pretrained", {"trust_remote_code": True}, "would run code of the model's folder"),
        ("from_pretrained", {"output_loading_info": True}, "has nothing to tell"),
        ("from_pretrained", {"from_pth": True}, "from_pretrained has no argument 'from_pth'"),
        ("save_pretrained", {"is_main_process": False}, "call it in the main process alone"),
        ("save_pretrained", {"use_safetensors": True}, "save_pretrained has no argument 'use_safetensors'"),
        ("push_to_hub", {"create_pr": True}, "revision= commits to a branch of its own"),
    ],
)
def test_unsupported_keywords_are_refused_in_one_sentence(method, keywords, message, model, saved):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        getattr(model, method)(saved if method == "from_pretrained" else "owner/name", **keywords)
    assert "\n" not in str(error.value)


def test_a_tower_in_a_subfolder_is_found_by_its_keyword(tmp_path):
    tiny.write_tower(tmp_path / "both/v", tiny.VIT)
    tiny.write_tower(tmp_path / "both/t", tiny.BERT, seed=1)
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(
        tmp_path / "both", tmp_path / "both", vision_subfolder="v", text_subfolder="t", projection_dim=16
    )
    model.save_pretrained(tmp_path / "all/in/here")
    again = VisionTextDualEncoderModel.from_pretrained(tmp_path / "all", subfolder="in/here")
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
