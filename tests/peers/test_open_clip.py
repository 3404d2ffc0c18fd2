"""open_clip opens our folders in its layout, and gives our vectors for the same pictures and texts."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from safetensors.torch import save_file

import lit_jax
from lit_jax.hf import load as loading
from lit_jax.hf.conversions import open_clip as conversion
from lit_jax.hf.processor import load_image_processor, load_processor
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.models.encoders import clip_resnet
from lit_jax.models.heads import Head
from lit_jax.utils._transformers import transformers
from tests import tiny
from tests.hf.conversions import foreign
from tests.hf.layouts.test_open_clip import CLIP, VIT, dual, processor, with_cls
from tests.parity.test_sentence_transformers import pictures
from tests.parity.towers import assert_same_gradients

open_clip = pytest.importorskip("open_clip")

TEXTS = ["a red square", "the green circle of blue on white", "a", "red " * 60]
ROBERTA = tiny.XLM_ROBERTA | {"type_vocab_size": 1}
MT5 = tiny.MT5 | {"num_decoder_layers": 1}
NLLB = tiny.M2M_100 | {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
MODELS = {  # Towers, fields of the config, and the id of padding.
    "clip": (CLIP, {}, 0),
    "clip, quick gelu, narrow mlp": (
        {
            "vision": tiny.CLIP_VISION | {"hidden_act": "quick_gelu", "intermediate_size": 70},
            "text": tiny.CLIP_TEXT | {"hidden_act": "quick_gelu"},
        },
        {"logit_bias_init_value": -3.0, "text_head": Head("linear_bias")},
        0,
    ),
    "clip at the largest id": (
        {"vision": tiny.CLIP_VISION | {"layer_norm_eps": 1e-3}, "text": tiny.CLIP_TEXT | {"eos_token_id": 2}},
        {},
        0,
    ),
    "metaclip 2": (
        {"vision": tiny.CLIP_VISION, "text": tiny.METACLIP_2_TEXT | {"hidden_act": "gelu"}},
        {},
        0,
    ),
    "vit, bert": ({"vision": VIT}, {}, 0),
    "vit without biases, mean": ({"vision": VIT | {"qkv_bias": False}}, {"text_pooling": "mean"}, 0),
    "mean of a vit, cls": ({"vision": VIT}, {"vision_pooling": "mean", "text_pooling": "cls"}, 0),
    "dinov2, xlm-r": (
        {"vision": tiny.DINOV2 | {"image_size": 32}, "text": ROBERTA},
        {"text_pooling": "mean", "text_head": Head("mlp", (20,))},
        1,
    ),
    "mt5": ({"vision": VIT, "text": MT5}, {}, 0),
    "nllb, cls": ({"vision": VIT, "text": NLLB}, {"text_pooling": "cls"}, 1),
    "nllb": ({"vision": VIT, "text": NLLB}, {"text_head": Head("mlp", (20,))}, 1),
}


def model_of(name):
    towers, fields, pad = MODELS[name]
    if "vision" in towers and "hidden_act" not in towers["vision"]:
        towers = towers | {"vision": towers["vision"] | {"hidden_act": "gelu"}}
    if "text" in towers and towers["text"]["model_type"] == "clip_text_model":
        towers = towers | {"text": {"hidden_act": "gelu"} | towers["text"]}
    module, params = dual(towers, **fields)
    params = with_cls(params) if module.config.vision_type == "vit" else params
    if module.config.text_head.kind == "mlp":
        for layer in params["text_projection"].values():
            layer["bias"][:] = 0
    own = tiny.processor(32) if pad == 0 else processor(pad)
    return module, params, own


def assert_same_vectors(folder, module, params, own):
    """Asserts that open_clip makes the same vectors of pictures and texts as we do."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        images = model.eval().encode_image(
            torch.stack([preprocess(one) for one in pictures()]), normalize=True
        )
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    ours = Embedder(Opened("tiny", module, params, own))
    np.testing.assert_allclose(ours.pictures(pictures()), images.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.texts(TEXTS), texts.numpy(), rtol=0, atol=1e-5)
    assert model.logit_scale.item() == params["logit_scale"]
    if "logit_bias" in params:
        assert model.logit_bias.item() == params["logit_bias"]


@pytest.mark.parametrize("name", MODELS)
def test_open_clip_gives_our_vectors(name, tmp_path):
    module, params, own = model_of(name)
    lit_jax.save(tmp_path, module, params, own, layout="open_clip")
    assert_same_vectors(tmp_path, module, params, own)


def test_a_training_checkpoint_opens_with_the_config_that_open_clip_knows(tmp_path):
    """As docs/formats.md describes."""
    model = open_clip.create_model("ViT-S-32-alt").eval()
    stored = {"epoch": 3, "name": "run", "state_dict": model.state_dict()}
    torch.save(stored, tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip.get_model_config("ViT-S-32-alt")))
    ours = Embedder(tmp_path, allow_pickle=True)
    preprocess = open_clip.image_transform(224, is_train=False)
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(one) for one in pictures()]), normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(TEXTS), normalize=True)
    np.testing.assert_allclose(ours.pictures(pictures()), images.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.texts(TEXTS), texts.numpy(), rtol=0, atol=1e-5)


FEWER = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}  # For a ConvNeXt of any name.
CONVNEXTS = [
    name
    for name in open_clip.list_models()
    if "convnext" in str(open_clip.get_model_config(name)["vision_cfg"])
]


@pytest.mark.parametrize("name", CONVNEXTS)
def test_every_config_of_open_clip_with_a_convnext_gives_its_embeddings(name, tmp_path, monkeypatch):
    """With few blocks, channels and layers, and pictures half as large."""
    from open_clip import timm_model

    make = timm_model.timm.create_model
    monkeypatch.setattr(timm_model.timm, "create_model", lambda kind, **more: make(kind, **more | FEWER))
    cfg = open_clip.get_model_config(name)
    cfg["embed_dim"] = 16
    cfg["vision_cfg"]["image_size"] //= 2
    cfg["text_cfg"] |= {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
    model = open_clip.CLIP(**json.loads(json.dumps(cfg))).eval()
    tensors = {key: foreign.drawn(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    stored = {"layout": "open_clip", "files": {"open_clip_config.json": {"model_cfg": cfg}}, "shapes": {}}
    module, params = lit_jax.load(foreign.write(tmp_path, stored, **tensors))
    images, ids = foreign.images(cfg["vision_cfg"]["image_size"]), foreign.ids(60, 12, 0, 59)
    got = module.apply({"params": params}, images, {"input_ids": jnp.asarray(ids, jnp.int32)})
    with torch.no_grad():
        seen = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())
        want = (
            model.encode_image(seen, normalize=True),
            model.encode_text(torch.from_numpy(ids), normalize=True),
        )
    for ours, theirs in zip(got, want, strict=False):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
    assert module.config.vision.image_size == cfg["vision_cfg"]["image_size"]


# For a trunk of any name.
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}


TRUNKS = "siglip siglip2 clip_bert clip_mt5 clip_convnext clip_convnext_mlp clip_convnext_classifier".split()


@pytest.mark.parametrize("name", TRUNKS)
def test_open_clip_gives_our_vectors_of_a_trunk_of_timm(name, tmp_path, monkeypatch):
    from open_clip import timm_model

    from lit_jax.hf.layouts import open_clip_images

    model = foreign.stored(name)
    cfg = model["files"]["open_clip_config.json"]["model_cfg"]["vision_cfg"]
    monkeypatch.setattr(open_clip_images, "name_of", lambda *_: cfg["timm_model_name"])
    make = timm_model.timm.create_model
    monkeypatch.setattr(
        timm_model.timm,
        "create_model",
        lambda kind, **options: make(kind, **options | (FEWER if "convnext" in kind else SMALL)),
    )
    module, params = lit_jax.load(foreign.write(tmp_path / "theirs", model))
    own = tiny.processor(cfg["image_size"])
    own.tokenizer.model_max_length = 12
    if name.startswith("siglip"):
        own.tokenizer.model_input_names = ["input_ids"]
    lit_jax.save(tmp_path / "ours", module, params, own, layout="open_clip")
    assert_same_vectors(tmp_path / "ours", module, params, own)


NLLBS = [name for name in open_clip.list_models() if "nllb" in name]


@pytest.mark.parametrize("name", NLLBS)
def test_every_config_with_an_nllb_gives_the_embeddings_of_open_clip(name, tmp_path, monkeypatch):
    """The models are small, with as many heads as the published ones, and have no config of the tower in the folder."""
    from open_clip import timm_model

    make = timm_model.timm.create_model
    monkeypatch.setattr(timm_model.timm, "create_model", lambda kind, **more: make(kind, **more | SMALL))
    cfg = open_clip.get_model_config(name)
    cfg["embed_dim"] = 64
    cfg["vision_cfg"]["image_size"] = 32
    if "timm_model_name" not in cfg["vision_cfg"]:
        cfg["vision_cfg"] |= {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    heads = {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
    transformers.M2M100Config(**NLLB | {"d_model": 32, **heads}).save_pretrained(tmp_path / "tower")
    given = {key: value for key, value in copy.deepcopy(cfg).items() if key != "custom_text"}
    given["text_cfg"] |= {"hf_model_name": str(tmp_path / "tower"), "hf_model_pretrained": False}
    model = open_clip.CustomTextCLIP(**given).eval()
    tensors = {key: foreign.drawn(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    stored = {"layout": "open_clip", "files": {"open_clip_config.json": {"model_cfg": cfg}}, "shapes": {}}
    module, params = lit_jax.load(foreign.write(tmp_path / "m", stored, **tensors))
    images, ids = foreign.images(32), foreign.ids(99, 77, 1, 2)
    words = {"input_ids": jnp.asarray(ids, jnp.int32), "attention_mask": jnp.asarray(ids != 1, jnp.int32)}
    got = module.apply({"params": params}, images, words)
    with torch.no_grad():
        want = (
            model.encode_image(seen_by_torch(images), normalize=True),
            model.encode_text(torch.from_numpy(ids), normalize=True),
        )
    for ours, theirs in zip(got, want, strict=False):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
    assert ("logit_bias" in params) == ("siglip" in name)


def test_our_table_of_names_agrees_with_what_timm_makes_of_them():
    """This covers all sizes, kinds of gelu and norms in our table."""
    timm = pytest.importorskip("timm")
    from lit_jax.hf.conversions import timm_names

    for name in timm_names.NAMES:
        with torch.device("meta"):
            model = timm.create_model(name)
        shape = timm_names.shape_of(name)
        block = model.blocks[0]
        assert (model.embed_dim, len(model.blocks), block.attn.num_heads) == (
            shape.width,
            shape.depth,
            shape.heads,
        )
        assert (block.mlp.fc1.out_features, block.norm1.eps) == (shape.hidden, shape.eps), name
        assert (model.patch_embed.patch_size[0], model.patch_embed.img_size[0]) == (
            shape.patch,
            shape.image,
        ), name
        act = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu"}[
            type(block.mlp.act).__name__
        ]
        assert act == shape.act, name


PERCEPTION_ENCODERS = [name for name in open_clip.list_models() if name.startswith("PE-")]
EVAS = [name for name in open_clip.list_models() if name.startswith("EVA")]


def test_every_perception_encoder_is_compared():
    assert len(PERCEPTION_ENCODERS) == 5


@pytest.mark.parametrize("name", EVAS + PERCEPTION_ENCODERS)
def test_every_config_of_open_clip_with_an_eva_or_a_perception_encoder_gives_its_embeddings(
    name, tmp_path, monkeypatch
):
    from open_clip import timm_model

    make = timm_model.timm.create_model
    monkeypatch.setattr(
        timm_model.timm, "create_model", lambda kind, **options: make(kind, **options | SMALL)
    )
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["image_size"] = 32
    config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2, "vocab_size": 60, "context_length": 12}
    given = {key: value for key, value in copy.deepcopy(config).items() if key != "custom_text"}
    model = open_clip.model.CustomTextCLIP(**given).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(foreign.drawn(key, shape)) for key, shape in shapes.items()})
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    module, params = lit_jax.load(tmp_path)
    ids = foreign.ids(60, 12, 0, 59)
    images, texts, _ = module.apply(
        {"params": params}, foreign.images(32), {"input_ids": jnp.asarray(ids, jnp.int32)}
    )
    pixels = torch.from_numpy(np.array(foreign.images(32)).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        want = (
            model.encode_image(pixels, normalize=True),
            model.encode_text(torch.from_numpy(ids), normalize=True),
        )
    np.testing.assert_allclose(images, want[0].numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(texts, want[1].numpy(), rtol=0, atol=1e-5)


RESNETS = [name for name in open_clip.list_models() if name.startswith("RN")]


def with_a_resnet(name, folder):
    """open_clip's model of a built-in config with few layers and channels, a folder of it, and its vision_cfg.

    The sides of pictures are halved, and rounded down to whole tokens.
    """
    cfg = open_clip.get_model_config(name)
    given = cfg["vision_cfg"]
    assert given["image_size"] % 32 == 0 and given["width"] * 32 % 64 == 0  # As we assume.
    given["layers"] = [min(depth, 1 + stage % 2) for stage, depth in enumerate(given["layers"])]
    given |= {"width": given["width"] // 8, "image_size": given["image_size"] // 64 * 32}
    cfg["embed_dim"] = 16
    cfg["text_cfg"] |= {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
    model = open_clip.CLIP(**copy.deepcopy(cfg)).eval()
    tensors = {key: foreign.drawn(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    stored = {"layout": "open_clip", "files": {"open_clip_config.json": {"model_cfg": cfg}}, "shapes": {}}
    return model, foreign.write(folder, stored, **tensors), given


def in_squares(side):
    """Pictures of 16 colours each, since means over many pixels make pictures of noise all alike."""
    return jnp.repeat(jnp.repeat(foreign.images(4), side // 4, 1), side // 4, 2)


def seen_by_torch(images):
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("name", RESNETS)
def test_every_config_of_open_clip_with_a_resnet_gives_its_embeddings(name, tmp_path):
    model, folder, cfg = with_a_resnet(name, tmp_path)
    module, params = lit_jax.load(folder)
    assert module.config.vision.hidden_size == 32 * cfg["width"]
    images, ids = in_squares(cfg["image_size"]), foreign.ids(60, 12, 0, 59)
    got = module.apply({"params": params}, images, {"input_ids": jnp.asarray(ids, jnp.int32)})
    with torch.no_grad():
        want = (
            model.encode_image(seen_by_torch(images), normalize=True),
            model.encode_text(torch.from_numpy(ids), normalize=True),
        )
    assert want[0].std(0).mean() > 1e-3  # The pictures differ by a hundred times the tolerance.
    for ours, theirs in zip(got, want, strict=False):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_a_resnet_has_the_gradients_of_open_clip(tmp_path):
    """With running statistics, as in `eval`; those have no gradient."""
    model, folder, cfg = with_a_resnet("RN50", tmp_path)
    module, params = lit_jax.load(folder)
    images = in_squares(cfg["image_size"])
    weight = np.random.default_rng(3).normal(size=(8, 16)).astype(np.float32)
    (model.encode_image(seen_by_torch(images)) * torch.from_numpy(weight)).sum().backward()
    names = dict(model.visual.named_parameters())
    wanted = {
        key: np.zeros(tensor.shape, np.float32) if "running" in key else names[key].grad.numpy()
        for key, tensor in model.visual.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }

    def loss(params):
        embeds, _ = module.apply({"params": params}, images, method="image_features")
        return (embeds * weight).sum()

    got = jax.grad(loss)(jax.tree.map(jnp.asarray, params))
    head = {"kernel": wanted.pop("attnpool.c_proj.weight").T, "bias": wanted.pop("attnpool.c_proj.bias")}
    tower = clip_resnet.weights(module.config.vision).to_jax(wanted, got["vision"])
    assert_same_gradients(
        {name: got[name] for name in ("vision", "visual_projection")},
        {"vision": tower, "visual_projection": head},
    )


@pytest.mark.parametrize("name", PERCEPTION_ENCODERS)
def test_the_tensors_of_a_whole_perception_encoder_have_their_places(name, tmp_path, monkeypatch):
    """In full size, without memory for the weights."""
    cfg, zero = open_clip.get_model_config(name), np.zeros((), np.float32)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    with torch.device("meta"):
        model = open_clip.model.CustomTextCLIP(
            **{key: value for key, value in cfg.items() if key != "custom_text"}
        )
    tensors = {key: np.broadcast_to(zero, tuple(t.shape)) for key, t in model.state_dict().items()}
    monkeypatch.setattr(conversion, "_tensors", lambda *_: tensors)
    found = conversion.FORMAT.read(tmp_path, False)
    module = DualEncoder(DualEncoderConfig.from_hf(found.config))
    shapes = traverse_util.flatten_dict(dual_encoder.param_shapes(module), sep="/")
    table, names = loading._matched(found.tensors, module.config)
    wanted = {
        tensor: row.hf_shape(shapes[row.jax_names()[0]].shape)
        for row in table.rows
        for tensor in row.hf_names()
    }
    assert {ours: found.tensors[theirs].shape for theirs, ours in names.items()} == wanted


@pytest.mark.parametrize("name", PERCEPTION_ENCODERS)
def test_pictures_and_texts_for_a_perception_encoder_are_prepared_as_in_open_clip(name, tmp_path):
    """They have the size and the length that the config says."""
    config = open_clip.get_model_config(name)
    given = open_clip.get_pretrained_cfg(name, "meta")
    given = {key: given[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    stored = {"model_cfg": config, "preprocess_cfg": given}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
    own = load_processor(tmp_path)
    theirs = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False, **given)
    for picture in pictures():
        got = own.image_processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(got, theirs(picture).numpy())
    ids = open_clip.get_tokenizer(name)(TEXTS).numpy()
    got = own.tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")
    np.testing.assert_array_equal(got["input_ids"] * got["attention_mask"], ids)
    assert ids.shape[1] == config["text_cfg"]["context_length"]


def test_pictures_for_an_eva_are_prepared_as_in_open_clip(tmp_path):
    config = open_clip.get_model_config("EVA02-B-16")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    ours = load_image_processor(tmp_path)
    theirs = open_clip.image_transform(224, is_train=False)
    for picture in pictures():
        got = ours(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(got, theirs(picture).numpy(), rtol=0, atol=1e-5)
