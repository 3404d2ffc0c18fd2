"""Towers from the folder of a whole CLIP of transformers: what is true of the whole holds for its halves too."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.parity.conftest import randomise
from tests.parity.towers import in_torch, pixels, texts


def write_clip(folder, **changes):
    """Writes a random CLIP, whose config.json then gets `changes`."""
    config = transformers.CLIPConfig(
        vision_config=tiny.CLIP_VISION, text_config=tiny.CLIP_TEXT, projection_dim=20
    )
    randomise(transformers.CLIPModel(config), 0).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def assert_equal_embeddings(module, params, inputs, theirs):
    images = jnp.asarray(inputs["pixel_values"].transpose(0, 2, 3, 1))
    text = {name: jnp.asarray(value) for name, value in inputs.items() if name != "pixel_values"}
    got_images, got_texts, _ = jax.jit(module.apply)({"params": params}, images, text)
    np.testing.assert_allclose(got_images, theirs.image_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got_texts, theirs.text_embeds, rtol=0, atol=1e-5)


@pytest.fixture
def inputs():
    text = texts()
    return {
        "pixel_values": np.ascontiguousarray(pixels(32).transpose(0, 3, 1, 2)),
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }


def in_theirs(folder, inputs):
    model = transformers.CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(
            **in_torch({k: v for k, v in inputs.items() if "pix" not in k}),
            pixel_values=torch.from_numpy(inputs["pixel_values"]),
        )


def test_a_config_dict_takes_precedence_over_the_config_as_in_pytorch(tmp_path, inputs):
    odd = {"hidden_act": "gelu", "layer_norm_eps": 1e-3}
    folder = write_clip(
        tmp_path / "clip",
        vision_config_dict=tiny.CLIP_VISION | odd,
        text_config_dict=tiny.CLIP_TEXT | odd,
    )
    assert_equal_embeddings(*lit_jax.from_towers(folder, folder), inputs, in_theirs(folder, inputs))


def test_both_halves_of_one_clip_keep_its_projections_as_in_pytorch(tmp_path, inputs, caplog):
    folder = write_clip(tmp_path / "clip")
    theirs = in_theirs(folder, inputs)
    for make in (lit_jax.from_towers, _by_facade):
        module, params = make(folder, folder)
        assert module.config.projection_dim == 20
        assert_equal_embeddings(module, params, inputs, theirs)
    assert "projections" not in caplog.text


def _by_facade(vision, text):
    model = lit_jax.VisionTextDualEncoderModel.from_vision_text_pretrained(vision, text)
    return model.module, model.params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projections": "new"}, None),
        ({"projection_dim": 16}, "projection_dim is 16 and theirs is 20"),
        ({"vision_pooling": "cls"}, "vision_pooling is 'cls'"),
        ({"vision": "other"}, "the towers do not come from one checkpoint"),
        ({"text": "bert"}, "the towers do not come from one checkpoint"),
    ],
)
def test_projections_that_are_not_kept_are_reported_in_one_warning(change, message, tmp_path, caplog):
    (
        write_clip(tmp_path / "clip"),
        write_clip(tmp_path / "other"),
        tiny.write_tower(tmp_path / "bert", tiny.BERT),
    )
    options = {"vision": "clip", "text": "clip"} | change
    vision, text = (tmp_path / options.pop(tower) for tower in ("vision", "text"))
    _, params = lit_jax.from_towers(vision, text, **options)
    assert params["visual_projection"]["kernel"].shape == (32, change.get("projection_dim", 512))
    told = [
        record.getMessage() for record in caplog.records if "are replaced by new ones" in record.getMessage()
    ]
    assert len(told) == (message is not None) and (message or "") in "".join(told)


def test_an_unknown_choice_of_projections_is_refused(tmp_path):
    folder = write_clip(tmp_path / "clip")
    with pytest.raises(ConfigError, match="projections is 'old'; wanted one of keep, new"):
        lit_jax.from_towers(folder, folder, projections="old")
