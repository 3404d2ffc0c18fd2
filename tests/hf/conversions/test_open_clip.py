"""Models of open_clip give its own embeddings: tests/fixtures/make_foreign.py says how those were computed."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.hf import load as loading
from lit_jax.hf.processor import load_image_processor, load_processor
from lit_jax.models.encoders import bart
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

NAMES = foreign.names("open_clip")


def embedded(folder, model, **options):
    module, params = lit_jax.load(folder, **options)
    return module, module.apply({"params": params}, pixels(model), texts(model))


def pixels(model):
    """Random pictures of the size that the config says: 32 pixels, or more for ConvNeXts and ResNets."""
    cfg = model["files"]["open_clip_config.json"]["model_cfg"]["vision_cfg"]
    return foreign.images(cfg["image_size"])


def texts(model):
    """The ids, with an attention mask where open_clip makes one from them."""
    ids, tower = jnp.array(model["ids"], jnp.int32), model["files"].get("config.json")
    return {"input_ids": ids} | ({"attention_mask": ids != tower["pad_token_id"]} if tower else {})


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_open_clip_gives_the_embeddings_of_open_clip(name, tmp_path):
    model = foreign.stored(name)
    _, (images, words, _) = embedded(foreign.write(tmp_path / "m", model), model)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    np.testing.assert_allclose(words, model["text_embeds"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("clip", "clip", {}),
        ("siglip2", "siglip", {}),
        ("clip_bias", "vision-text-dual-encoder", {"text_head": {"kind": "linear_bias"}}),
        ("clip_convnext", "vision-text-dual-encoder", {}),
        ("clip_resnet", "vision-text-dual-encoder", {"vision_head": {"kind": "linear_bias"}}),
        ("clip_perception", "vision-text-dual-encoder", {"vision_head": {"kind": "linear_bias"}}),
        ("clip_perception_cls", "vision-text-dual-encoder", {"vision_pooling": "cls"}),
        ("clip_vitamin", "vision-text-dual-encoder", {}),
        ("coca", "vision-text-dual-encoder", {}),
        ("mobileclip", "vision-text-dual-encoder", {"vision_head": {"kind": "linear_bias"}}),
        (
            "clip_convnext_mlp",
            "vision-text-dual-encoder",
            {"vision_head": {"kind": "mlp", "hidden": [32]}},
        ),
        (
            "clip_xlm_roberta",
            "vision-text-dual-encoder",
            {"text_pooling": "mean", "text_head": {"kind": "mlp", "hidden": [24]}},
        ),
    ],
)
def test_the_nearest_class_of_transformers_is_chosen(name, kind, own, tmp_path):
    module, params = lit_jax.load(foreign.write(tmp_path, foreign.stored(name)))
    assert (module.config.model_type, module.config.own) == (kind, own)
    assert params["logit_scale"].shape == ()


def test_temperature_and_bias_are_those_of_the_checkpoint(tmp_path):
    for name in ("siglip", "clip_bias"):
        _, params = lit_jax.load(foreign.write(tmp_path / name, foreign.stored(name)))
        for scalar in ("logit_scale", "logit_bias"):
            assert params[scalar] == foreign.drawn(scalar, ())


def test_a_temperature_that_is_a_list_of_one_is_read(tmp_path):
    for name in ("clip", "siglip"):
        scalars = [key for key in foreign.stored(name)["shapes"] if key.startswith("logit")]
        lists = {key: foreign.drawn(key, (1,)) for key in scalars}
        _, params = lit_jax.load(foreign.write(tmp_path / name, foreign.stored(name), **lists))
        assert params["logit_scale"] == lists["logit_scale"][0]


def test_what_was_read_is_saved_and_read_again_with_the_same_embeddings(tmp_path):
    own = (
        *("clip_xlm_roberta", "clip_convnext_mlp", "clip_resnet", "clip_perception_cls"),
        *("clip_vitamin", "clip_vitamin_without_positions"),
        *("coca", "coca_of_one_width", "mobileclip", "mobileclip_vit"),
    )
    for name, layout in ({"clip": "hf", "siglip": "hf"} | dict.fromkeys(own, "lit_jax")).items():
        model = foreign.stored(name)
        module, params = lit_jax.load(foreign.write(tmp_path / name, model))
        lit_jax.save(tmp_path / f"{name}_saved", module, params, layout=layout)
        _, (images, words, _) = embedded(tmp_path / f"{name}_saved", model)
        np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
        np.testing.assert_allclose(words, model["text_embeds"], atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "coca"])
def test_the_halves_of_a_model_are_towers_and_keep_their_projections(name, tmp_path):
    model = foreign.stored(name)
    folder = foreign.write(tmp_path, model)
    module, params = lit_jax.from_towers(folder, folder)
    images, words, _ = module.apply({"params": params}, foreign.images(32), texts(model))
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    np.testing.assert_allclose(words, model["text_embeds"], atol=1e-5)


def test_a_pickle_is_read_only_when_allowed(tmp_path):
    torch = pytest.importorskip("torch")
    model = foreign.stored("clip")
    folder = foreign.write(tmp_path, model)
    (folder / foreign.WEIGHTS["open_clip"]).unlink()
    with pytest.raises(WeightError, match=r"has an open_clip_config\.json and no weights"):
        lit_jax.load(folder)
    tensors = {f"module.{key}": foreign.drawn(key, tuple(shape)) for key, shape in model["shapes"].items()}
    torch.save(
        {key: torch.from_numpy(np.asarray(value)) for key, value in tensors.items()},
        folder / "open_clip_pytorch_model.bin",
    )
    with pytest.raises(WeightError, match="only as a pickle"):
        lit_jax.load(folder)
    _, (images, _, _) = embedded(folder, model, allow_pickle=True)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)


@pytest.mark.parametrize(("name", "prefix"), [("clip", ""), ("clip_custom", "text.")])
def test_what_a_torchscript_program_has_beside_the_weights_is_left_out(name, prefix, tmp_path):
    """For OpenAI's programs, open_clip leaves out the numbers too; it makes the mask itself."""
    model = foreign.stored(name)
    beside = {
        "input_resolution": np.array(32),
        "context_length": np.array(12),
        "vocab_size": np.array(60),
        f"{prefix}attn_mask": np.triu(np.full((12, 12), -np.inf, np.float32), 1),
    }
    _, (images, _, _) = embedded(foreign.write(tmp_path, model, **beside), model)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)


def larger(model, *prefixes):
    """A model's tensors as a larger one stores them under each prefix, and one tensor of the larger one."""
    tensors = {key: foreign.drawn(key, tuple(shape)) for key, shape in model["shapes"].items()}
    named = {prefix + key: value for prefix in prefixes for key, value in tensors.items()}
    return {"without": model["shapes"], "probe.weight": np.ones((2, 3), np.float32), **named}


def test_a_model_within_a_larger_one_is_found_there(tmp_path, caplog):
    model = foreign.stored("clip")
    with caplog.at_level("INFO"):
        _, (images, _, _) = embedded(
            foreign.write(tmp_path / "a", model, **larger(model, "model.clip.")), model
        )
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    assert caplog.text.count("left out, since they do not lie below 'model.clip.': probe.weight") == 1
    with pytest.raises(WeightError, match=r"several times, below ema\., model\.; keep the tensors of one"):
        lit_jax.load(foreign.write(tmp_path / "b", model, **larger(model, "model.", "ema.")))


def test_weights_of_transformers_in_the_same_folder_are_preferred(tmp_path):
    module, params = lit_jax.load(foreign.write(tmp_path / "m", foreign.stored("clip")))
    changed = params | {"logit_scale": np.float32(1.5)}
    lit_jax.save(tmp_path / "m", module, changed)
    assert loading.read_dual(tmp_path / "m", loading.Compute()).params["logit_scale"] == 1.5


def test_a_published_nllb_needs_no_config_of_its_own(tmp_path):
    model = foreign.stored("clip_nllb")
    del model["files"]["config.json"]
    text = model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"]
    text["hf_model_name"] = "facebook/nllb-200-distilled-1.3B"
    old = {"text.transformer.embed_positions.weights": np.zeros((1026, 32), np.float32)}
    module, _ = lit_jax.load(foreign.write(tmp_path, model, **old))
    sizes = {"vocab_size": 60, "d_model": 32, "encoder_ffn_dim": 48, "encoder_layers": 2}
    assert module.config.text == bart.M2M100Config(**sizes, encoder_layerdrop=0.0)
    assert module.config.text_pooling == "cls"


CASES = {  # Field of a tower -> a value that is not implemented, and the message.
    "vision_cfg": {
        "layers": (
            [3, 4, 6],
            r"the layers \[3, 4, 6\] are not usable; wanted a ResNet of 4 stages, or a ViT's number",
        ),
        "pool_type": ("avg", "has pool_type='avg'"),
        "width": ("768", "width='768' is not usable"),
        "timm_model_name": ("eva02_base", "the architecture 'eva02_base' of timm is not implemented"),
        "norm_kwargs": ({"bias": False}, "norm_kwargs {'bias': False}"),
        "image_size": ([32, 40], r"image_size=\[32, 40\] is not usable"),
        "head_width": (0, "head_width=0 is not usable"),
    },
    "text_cfg": {
        "layers": (10**30, "layers 10+ is not usable; wanted at most 1000"),
        "pool_type": ("first", "with pool_type 'first'"),
        "hf_model_name": (
            "facebook/nllb-moe-54b",
            "nothing is known of the text tower 'facebook/nllb",
        ),
        "heads": (3, "does not divide"),
        "mlp_ratio": (1e308, "is a model of open_clip whose config is not usable: .*infinity"),
    },
}


@pytest.mark.parametrize(
    ("tower", "name"), [(tower, name) for tower, names in CASES.items() for name in names]
)
def test_a_tower_that_is_not_implemented_is_refused_by_name(tower, name, tmp_path):
    model = foreign.stored("clip")
    value, said = CASES[tower][name]
    model["files"]["open_clip_config.json"]["model_cfg"][tower][name] = value
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.load(foreign.write(tmp_path, model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layers", [1, 2, 0, 1], "clip_resnet config: depths=0 is not usable"),
        ("layers", [1, 2, 1, "1"], "clip_resnet config: depths='1' is not usable"),
        ("width", 10**30, "clip_resnet config: embedding_size=10+ is not usable"),
        ("head_width", 40, "hidden_size=128 does not divide into num_attention_heads=3 equal heads"),
        ("image_size", [64, 64], r"image_size=\[64, 64\] is not usable; wanted a value of type int"),
        ("image_size", 24, "patch_size=32 is not usable with image_size=24"),
        ("image_size", 96, "positional_embedding has shape"),
    ],
    ids=str,
)
def test_a_resnet_that_is_not_usable_is_refused_by_name(name, value, said, tmp_path):
    model = foreign.stored("clip_resnet")
    model["files"]["open_clip_config.json"]["model_cfg"]["vision_cfg"][name] = value
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.load(foreign.write(tmp_path, model))
    assert "\n" not in str(error.value)


def test_missing_batch_counts_of_a_resnet_are_accepted_and_unknown_tensors_are_named(tmp_path):
    model = foreign.stored("clip_resnet")
    counts = [name for name in model["shapes"] if name.endswith("num_batches_tracked")]
    assert len(counts) == 22
    _, (images, _, _) = embedded(foreign.write(tmp_path / "a", model, without=counts), model)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    extra = {"visual.layer5.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}
    with pytest.raises(WeightError, match=r"not in the table: visual\.layer5\.0\.conv1\.weight"):
        lit_jax.load(foreign.write(tmp_path / "b", model, **extra))


@pytest.mark.parametrize(
    ("tower", "name", "value", "said"),
    [
        ("vision_cfg", "attentional_pool", "parallel", "has attentional_pool='parallel', which is not"),
        ("vision_cfg", "attentional_pool", "cascade", "has attentional_pool='cascade', which is not"),
        ("vision_cfg", "pool_type", "avg", "has pool_type='avg', which is not implemented"),
        ("vision_cfg", "no_ln_pre", True, "has no_ln_pre=True, which is not implemented"),
        ("vision_cfg", "attn_pooler_heads", 3, "projection_size=16 does not divide into attn_pooler_heads=3"),
        ("vision_cfg", "attn_pooler_queries", 0, "attn_pooler_queries=0 is not usable"),
        ("vision_cfg", "attn_pooler_queries", 10**30, "attn_pooler_queries=10+ is not usable"),
        ("vision_cfg", "attn_pooler_queries", 7, r"attn_pool\.query has shape \(6, 16\) where"),
        ("text_cfg", "pad_id", 60, "pad_token_id=60 is not usable with vocab_size=60"),
        ("text_cfg", "pad_id", "0", "coca_text config: pad_token_id='0' is not usable"),
        ("text_cfg", "no_causal_mask", "yes", "no_causal_mask='yes' is not usable"),
        ("text_cfg", "embed_cls", "yes", "has embed_cls='yes', which is not implemented"),
        ("text_cfg", "embed_cls", False, "not in the table: text.cls_emb"),
        ("text_cfg", "qk_norm", True, "has qk_norm=True, which is not implemented"),
    ],
    ids=str,
)
def test_a_coca_that_is_not_usable_is_refused_by_name(tower, name, value, said, tmp_path):
    model = foreign.stored("coca")
    model["files"]["open_clip_config.json"]["model_cfg"][tower][name] = value
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.load(foreign.write(tmp_path, model))
    assert "\n" not in str(error.value)


def test_the_decoder_of_a_coca_is_left_out_and_the_log_says_so(tmp_path, caplog):
    model = foreign.stored("coca")
    decoder = [name for name in model["shapes"] if name.startswith("text_decoder.")]
    assert len(decoder) == 29
    with caplog.at_level("INFO"):
        embedded(foreign.write(tmp_path / "a", model), model)
    said = "left out, since they only write captions: text_decoder.* (29 tensors)"
    assert f"{tmp_path / 'a'}: {said}" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        _, (images, _, _) = embedded(foreign.write(tmp_path / "b", model, without=decoder), model)
    assert "left out" not in caplog.text
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    del model["files"]["open_clip_config.json"]["model_cfg"][
        "multimodal_cfg"
    ]  # Without it, the decoder belongs to no model.
    with pytest.raises(WeightError, match=r"not in the table: text_decoder\."):
        lit_jax.load(foreign.write(tmp_path / "c", model))


def test_texts_of_a_coca_can_be_padded_with_any_token_and_cut_where_all_are_padding(tmp_path):
    model = foreign.stored("coca")
    module, params = lit_jax.load(foreign.write(tmp_path, model))
    ids = np.array(model["ids"], np.int32)
    for length in (12, 9, 4):
        rows = (ids[:, length:] == 0).all(1)
        part = ids[rows, :length]
        mask = np.arange(length) <= (part == 59).argmax(1)[:, None]
        assert (part[mask] == 0).any() or length == 4
        batch = {"input_ids": jnp.asarray(np.where(mask, part, 59)), "attention_mask": jnp.asarray(mask)}
        got = module.apply({"params": params}, texts=batch)[1]
        np.testing.assert_allclose(got, np.array(model["text_embeds"])[rows], atol=1e-5)


def test_texts_of_a_mobileclip_can_be_padded_with_any_token_and_to_any_length(tmp_path):
    model = foreign.stored("mobileclip")
    module, params = lit_jax.load(foreign.write(tmp_path, model))
    ids = np.array(model["ids"], np.int32)
    for length in (12, 9, 4):
        rows = (ids[:, length:] == 0).all(1)
        part = ids[rows, :length]
        mask = np.arange(length) <= (part == 59).argmax(1)[:, None]
        batch = {"input_ids": jnp.asarray(np.where(mask, part, 59)), "attention_mask": jnp.asarray(mask)}
        got = module.apply({"params": params}, texts=batch)[1]
        np.testing.assert_allclose(got, np.array(model["text_embeds"])[rows], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "hf_tokenizer_name",
            "someone/bert",
            "text_cfg has hf_tokenizer_name='someone/bert', which is not impl",
        ),
        ("pool_type", "eos", "a text tower without a causal mask, with pool_type 'eos' is not implemented"),
        (
            "pool_type",
            "first",
            "a text tower without a causal mask, with pool_type 'first' is not implemented",
        ),
    ],
)
def test_a_text_tower_without_a_causal_mask_that_is_not_implemented_is_refused(name, value, said, tmp_path):
    model = foreign.stored("mobileclip")
    model["files"]["open_clip_config.json"]["model_cfg"]["text_cfg"][name] = value
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.load(foreign.write(tmp_path, model))
    assert "\n" not in str(error.value)


def test_a_tower_of_timm_that_gives_no_vector_is_refused(tmp_path):
    model = foreign.stored("clip_convnext_mlp")
    for kind in ("none", None):
        model["files"]["open_clip_config.json"]["model_cfg"]["vision_cfg"]["timm_proj"] = kind
        with pytest.raises(WeightError, match=f"timm_pool '' with timm_proj {kind!r} gives no vector"):
            lit_jax.load(foreign.write(tmp_path / str(kind), model))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "has no vision_cfg in its model_cfg"),
        ('{"model_cfg": {"vision_cfg": {}, "text_cfg": 3}}', "has no text_cfg"),
    ],
)
def test_a_config_that_does_not_describe_two_towers_is_refused(content, said, tmp_path):
    folder = foreign.write(tmp_path, foreign.stored("clip"))
    (folder / "open_clip_config.json").write_text(content)
    for read in (lit_jax.load, load_processor):
        with pytest.raises(WeightError, match=said):
            read(folder)


def test_tensors_that_are_missing_left_over_or_of_another_shape_are_named(tmp_path):
    model, name = foreign.stored("clip"), "visual.transformer.resblocks.1.attn.in_proj_weight"
    with pytest.raises(WeightError, match=rf"missing from the checkpoint: {name}; not in the table: none"):
        lit_jax.load(foreign.write(tmp_path / "a", model, without=(name,)))
    with pytest.raises(WeightError, match=r"not in the table: visual\.extra"):
        lit_jax.load(foreign.write(tmp_path / "b", model, **{"visual.extra": np.zeros(3, np.float32)}))
    for shape, said in (
        ((95, 32), f"tensor {name} has shape"),
        ((96, 30), "layers.1.self_attn.q_proj.weight"),
    ):
        with pytest.raises(WeightError, match=said):
            lit_jax.load(
                foreign.write(tmp_path / str(shape[0]), model, **{name: np.zeros(shape, np.float32)})
            )


def test_pictures_are_prepared_as_the_config_says(tmp_path):
    model = foreign.stored("clip")
    config = model["files"]["open_clip_config.json"]
    config["preprocess_cfg"] = {"mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "interpolation": "bilinear"}
    (tmp_path / "squash").mkdir()
    folder = foreign.write(tmp_path / "m", model)
    found = load_image_processor(folder)
    assert (dict(found.size)["shortest_edge"], found.resample, list(found.image_mean)) == (
        32,
        2,
        [0.5, 0.4, 0.3],
    )
    config["preprocess_cfg"]["resize_mode"] = "squash"
    found = load_image_processor(foreign.write(tmp_path / "squash", model))
    assert dict(found.size) == {"height": 32, "width": 32}
    for name, value in (
        ("resize_mode", "longest"),
        ("interpolation", "area"),
        ("mean", "x"),
        ("std", [0, 0, 0]),
    ):
        changed = json.loads(json.dumps(model))
        changed["files"]["open_clip_config.json"]["preprocess_cfg"][name] = value
        with pytest.raises(WeightError, match=name.removeprefix("resize_mode") or "'longest'"):
            load_image_processor(foreign.write(tmp_path / name, changed))
