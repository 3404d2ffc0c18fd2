"""Whole models of two towers, read as they are on the Hub, equal PyTorch's class and are saved as it again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import serialization, traverse_util

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.models.composites import COMPOSITES, MODEL_TYPE
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity.conftest import randomise
from tests.parity.towers import in_torch, pixels, texts

VISION = {name: value for name, value in tiny.VIT.items() if name != "model_type"}
TEXT = {name: value for name, value in tiny.BERT.items() if name != "model_type"}
WIDTH = {"projection_dim": 20}
MODELS = {
    "clip": (transformers.CLIPModel, TEXT | {"eos_token_id": 98}, WIDTH),
    "clip with the old end of text": (transformers.CLIPModel, TEXT | {"eos_token_id": 2}, WIDTH),
    "siglip": (transformers.SiglipModel, TEXT | {"projection_size": 32}, {}),
    "metaclip_2": (transformers.MetaClip2Model, TEXT | {"eos_token_id": 2}, WIDTH),
    "clipseg": (transformers.CLIPSegModel, TEXT | {"eos_token_id": 98}, WIDTH),
    "chinese_clip": (transformers.ChineseCLIPModel, TEXT, WIDTH),
}


def write(folder, name):
    """Writes a random model; returns its folder."""
    kind, text, rest = MODELS[name]
    theirs = randomise(kind(kind.config_class(vision_config=VISION, text_config=text, **rest)), 0)
    theirs.save_pretrained(folder)
    return folder


def inputs():
    given = texts()
    given["input_ids"][[0, 1], [8, 5]] = 2  # Another end of text before the last one.
    images = np.ascontiguousarray(pixels(32, batch=3).transpose(0, 3, 1, 2))
    return {key: given[key] for key in ("input_ids", "attention_mask")} | {"pixel_values": images}


def in_theirs(folder, given):
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    images = torch.from_numpy(given["pixel_values"])
    words = in_torch({key: value for key, value in given.items() if key != "pixel_values"})
    with torch.no_grad():
        return model(**words, pixel_values=images, return_loss=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_equals_pytorch_in_embeddings_logits_and_loss(name, tmp_path):
    given, folder = inputs(), write(tmp_path / "m", name)
    want = in_theirs(folder, given)
    got = lit_jax.VisionTextDualEncoderModel.from_pretrained(folder)(**given, return_loss=True)
    for key in ("loss", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
        np.testing.assert_allclose(got[key], want[key], rtol=0, atol=1e-5, err_msg=key)

    module, params = lit_jax.load(folder)
    images = jnp.asarray(given.pop("pixel_values").transpose(0, 2, 3, 1))
    image, text, scale = module.apply({"params": params}, images, jax.tree.map(jnp.asarray, given))
    logits = scale * image @ text.T + params.get("logit_bias", 0.0)
    np.testing.assert_allclose(logits, want.logits_per_image, rtol=0, atol=1e-5)
    assert ("visual_projection" in params) == ("logit_bias" not in params) == (name != "siglip")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_is_saved_as_its_own_class_with_the_same_bits(name, tmp_path):
    folder = write(tmp_path / "m", name)
    lit_jax.save(tmp_path / "again", *lit_jax.load(folder))
    theirs = MODELS[name][0].from_pretrained(folder).state_dict()
    back, info = MODELS[name][0].from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())
    assert theirs.keys() == back.state_dict().keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in back.state_dict().items())
    first, second = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "again"))
    assert first["architectures"] == second["architectures"] and first["model_type"] == second["model_type"]
    halves = ("vision_config", "text_config")
    assert all(first[half]["model_type"] == second[half]["model_type"] for half in halves)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "layout"), [("clip", "dual_encoder"), *((name, "lit_jax") for name in MODELS)]
)
def test_a_whole_model_becomes_a_dual_encoder_with_the_same_embeddings(name, layout, tmp_path):
    module, params = lit_jax.load(write(tmp_path / "m", name))
    lit_jax.save(tmp_path / "dual", module, params, layout=layout)
    other, same = lit_jax.load(tmp_path / "dual")
    assert other.config.model_type == MODEL_TYPE
    jax.tree.map(np.testing.assert_array_equal, params, same)
    if layout == "dual_encoder":
        given = inputs()
        want = in_theirs(tmp_path / "dual", given)
        np.testing.assert_allclose(
            in_theirs(tmp_path / "m", given).logits_per_image, want.logits_per_image, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("siglip", "a text tower of type 'siglip_text_model' has no place in transformers'"),
        ("chinese_clip", "a text tower of type 'chinese_clip_text_model' has no place in transformers'"),
    ],
)
def test_what_a_dual_encoder_of_transformers_cannot_hold_is_refused(name, sentence, tmp_path):
    model = lit_jax.load(write(tmp_path / "m", name))
    with pytest.raises(WeightError, match=sentence) as error:
        lit_jax.save(tmp_path / "dual", *model, layout="dual_encoder")
    assert "layout='lit_jax'" in str(error.value)
    assert not (tmp_path / "dual").exists()


@pytest.mark.parametrize("name", MODELS)
def test_the_facade_has_the_config_class_of_the_model(name, tmp_path):
    folder = write(tmp_path / "m", name)
    model = lit_jax.VisionTextDualEncoderModel.from_pretrained(folder)
    assert type(model.config) is MODELS[name][0].config_class
    model.save_pretrained(tmp_path / "again")
    first, second = (model_folder.Tensors.of(place) for place in (folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    lit_jax.VisionTextDualEncoderModel.from_pretrained(folder, model.config)


def test_the_clip_inside_a_segmentation_model_equals_pytorch_at_the_size_of_its_pictures(tmp_path):
    config = transformers.CLIPSegConfig(
        vision_config=VISION,
        text_config=TEXT | {"eos_token_id": 98},
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        **WIDTH,
    )
    theirs = randomise(transformers.CLIPSegForImageSegmentation(config), 0)
    theirs.save_pretrained(tmp_path)
    given = inputs() | {"pixel_values": np.ascontiguousarray(pixels(48, batch=3).transpose(0, 3, 1, 2))}
    words = in_torch({key: given[key] for key in ("input_ids", "attention_mask")})
    with torch.no_grad():
        want = theirs.clip(**words, pixel_values=torch.from_numpy(given["pixel_values"]))
    module, params = lit_jax.load(tmp_path)
    images = jnp.asarray(given.pop("pixel_values").transpose(0, 2, 3, 1))
    image, text, _ = module.apply({"params": params}, images, jax.tree.map(jnp.asarray, given))
    np.testing.assert_allclose(image, want.image_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(text, want.text_embeds, rtol=0, atol=1e-5)
    _, joined = lit_jax.from_towers(tmp_path, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, joined["visual_projection"], params["visual_projection"])


def test_a_hybrid_clip_of_the_flax_projects_is_a_dual_encoder(tmp_path):
    vision = {"model_type": "clip", "vision_config": tiny.CLIP_VISION}
    config = transformers.VisionTextDualEncoderConfig(
        vision_config=tiny.CLIP_VISION, text_config=tiny.BERT, projection_dim=16
    )
    theirs = randomise(transformers.VisionTextDualEncoderModel(config), 0)
    theirs.save_pretrained(tmp_path / "dual")
    hybrid = {"model_type": "hybrid-clip", "projection_dim": 16, "seed": 42}
    hybrid |= {"vision_config": vision, "text_config": tiny.BERT}
    model_folder.write(tmp_path / "hybrid", hybrid, dict(model_folder.Tensors.of(tmp_path / "dual")))
    (_, want), (module, got) = lit_jax.load(tmp_path / "dual"), lit_jax.load(tmp_path / "hybrid")
    jax.tree.map(np.testing.assert_array_equal, got, want)
    lit_jax.save(tmp_path / "again", module, got)
    _, info = transformers.VisionTextDualEncoderModel.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(info.values())


def in_flax(name, tensor):
    """The path and the array with which transformers 4 stored a tensor of a CLIP in Flax."""
    *module, leaf = name.split(".")
    if leaf != "weight":
        return (*module, leaf), tensor
    if module[-1].endswith("embedding") and tensor.ndim == 2:
        return (*module, "embedding"), tensor
    if tensor.ndim == 1:
        return (*module, "scale"), tensor
    return (*module, "kernel"), tensor.transpose((1, 0) if tensor.ndim == 2 else (2, 3, 1, 0))


def test_a_clip_that_flax_wrote_has_the_same_weights(tmp_path):
    folder = write(tmp_path / "m", "clip")
    want = lit_jax.load(folder)
    tensors = model_folder.Tensors.of(folder)
    flat = dict(in_flax(name, np.array(tensors[name])) for name in tensors)
    tree = serialization.msgpack_serialize(traverse_util.unflatten_dict(flat))
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(tree)
    got = lit_jax.load(folder)
    assert got[0] == want[0]
    jax.tree.map(np.testing.assert_array_equal, got[1], want[1])


# Models of two towers in transformers, besides those that are read.
OTHERS = """aimv2 align altclip blip blip-2 flava groupvit
owlv2 owlvit tipsv2 videoprism xclip""".split()


def test_every_model_that_compares_pictures_with_texts_is_read_or_refused_by_name():
    zero_shot = transformers.models.auto.modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    assert set(zero_shot) <= {*COMPOSITES, *OTHERS}


@pytest.mark.parametrize("model_type", OTHERS)
def test_a_whole_model_that_is_not_implemented_is_refused_with_what_is_missing(model_type, tmp_path):
    model_folder.write(tmp_path, {"model_type": model_type}, {})
    for read in (lit_jax.load, lambda folder: lit_jax.from_towers(folder, folder)):
        with pytest.raises(WeightError, match=f"a model of type '{model_type}' is not implemented: \\w+"):
            read(tmp_path)
