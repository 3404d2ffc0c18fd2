"""Each architecture against PyTorch, through folders on disk."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from lit_jax.hf import model_folder
from lit_jax.models import encoders
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders.base import matched
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import (
    ASKED,
    assert_same_gradients,
    how_of,
    in_torch,
    layers,
    our_tower,
    pixels,
    pooled,
    texts,
    torch_gradients,
    torch_tower,
)

VISION = {
    "vit": tiny.VIT,
    "vit without qkv bias": tiny.VIT | {"qkv_bias": False, "layer_norm_eps": 1e-3},
    "vit with a linear pooler": tiny.VIT | {"pooler_act": "linear", "hidden_act": "gelu_new"},
    "deit": tiny.DEIT,
    "dinov2": tiny.DINOV2,
    "dinov2 swiglu": tiny.DINOV2 | {"use_swiglu_ffn": True, "mlp_ratio": 4},
    "dinov2 without qkv bias or mask token": tiny.DINOV2 | {"qkv_bias": False, "use_mask_token": False},
    "dinov2 with registers": tiny.DINOV2_REGISTERS,
    "dinov2 with no register and swiglu": tiny.DINOV2_REGISTERS
    | {"num_register_tokens": 0, "use_swiglu_ffn": True},
    "dinov3": tiny.DINOV3,
    "dinov3 without registers, gated, other biases": tiny.DINOV3
    | {
        "num_register_tokens": 0,
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "key_bias": True,
        "query_bias": False,
        "proj_bias": False,
        "mlp_bias": False,
        "rope_theta": 10.0,
    },
    "beit": tiny.BEIT,
    "beit with a shared bias and cls": tiny.BEIT
    | {
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
        "use_mean_pooling": False,
    },
    "beit with both biases, a table, a mask token and no layer scale": tiny.BEIT
    | {
        "use_shared_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mask_token": True,
        "layer_scale_init_value": 0.0,
    },
    "beit without positions": tiny.BEIT | {"use_relative_position_bias": False, "layer_norm_eps": 1e-3},
    "clip": tiny.CLIP_VISION,
    "clip with gelu and a large epsilon": tiny.CLIP_VISION | {"hidden_act": "gelu", "layer_norm_eps": 1e-3},
    "clipseg": tiny.CLIPSEG_VISION,
    "chinese clip": tiny.CHINESE_CLIP_VISION,
    "mlcd": tiny.MLCD_VISION,
    "mlcd of another base": tiny.MLCD_VISION | {"rope_theta": 50.0, "hidden_act": "quick_gelu"},
    "aimv2": tiny.AIMV2_VISION,
    "aimv2 of any size, with biases": tiny.AIMV2_VISION
    | {"is_native": True, "qkv_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    "vit msn": tiny.VIT_MSN | {"qkv_bias": False},
    "vit mae": tiny.VIT_MAE | {"hidden_act": "gelu_new"},
    "i-jepa": tiny.IJEPA,
    "data2vec": tiny.DATA2VEC_VISION,
    "data2vec with a shared bias, a table and cls": tiny.DATA2VEC_VISION
    | {
        "use_shared_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": False,
    },
    "siglip": tiny.SIGLIP_VISION,
    "tipsv2": tiny.TIPSV2_VISION,
    "tipsv2 with no register and swiglu": tiny.TIPSV2_VISION
    | {"num_register_tokens": 0, "use_swiglu_ffn": True, "mlp_ratio": 2.7, "qkv_bias": False},
}
TEXT = {
    "bert": tiny.BERT,
    "roberta": tiny.ROBERTA,
    "roberta with another padding id": tiny.ROBERTA | {"pad_token_id": 5, "type_vocab_size": 2},
    "xlm-roberta": tiny.XLM_ROBERTA | {"layer_norm_eps": 1e-5},
    "camembert": tiny.CAMEMBERT,
    "data2vec text": tiny.DATA2VEC_TEXT,
    "x-mod": tiny.XMOD,
    "x-mod with the norms first and in the adapters": tiny.XMOD
    | {"pre_norm": True, "adapter_layer_norm": True, "ln_before_adapter": False},
    "x-mod without a norm before wide adapters": tiny.XMOD
    | {"adapter_reuse_layer_norm": False, "adapter_reduction_factor": 1, "layer_norm_eps": 1e-3},
    "x-mod with the norms first, also before adapters": tiny.XMOD | {"pre_norm": True},
    "roformer": tiny.ROFORMER,
    "roformer of two widths whose values turn": tiny.ROFORMER
    | {"embedding_size": 16, "rotary_value": True, "layer_norm_eps": 1e-3},
    "big bird": tiny.BIG_BIRD | {"attention_type": "original_full"},
    "big bird without biases, scaled": tiny.BIG_BIRD
    | {
        "attention_type": "original_full",
        "use_bias": False,
        "rescale_embeddings": True,
        "layer_norm_eps": 1e-3,
    },
    "bert for generation": tiny.BERT_GENERATION | {"layer_norm_eps": 1e-3, "hidden_act": "relu"},
    "convbert": tiny.CONVBERT,
    "convbert of groups, two widths and one head": tiny.CONVBERT
    | {"embedding_size": 16, "num_groups": 4, "head_ratio": 9, "layer_norm_eps": 1e-3, "conv_kernel_size": 3},
    "luke": tiny.LUKE,
    "i-bert": tiny.IBERT | {"layer_norm_eps": 1e-3},
    "roberta with the norms first": tiny.ROBERTA_PRE_NORM,
    "xlm-roberta xl": tiny.XLM_ROBERTA_XL,
    "megatron bert": tiny.MEGATRON_BERT | {"layer_norm_eps": 1e-3},
    "rembert": tiny.REMBERT,
    "rembert of one width": tiny.REMBERT | {"input_embedding_size": 24},
    "longformer": tiny.LONGFORMER,
    "longformer of one window": tiny.LONGFORMER | {"attention_window": 6, "hidden_act": "gelu_new"},
    "esm": tiny.ESM,
    "esm with a table of positions and a norm behind it": tiny.ESM
    | {
        "position_embedding_type": "absolute",
        "emb_layer_norm_before": True,
        "token_dropout": False,
        "layer_norm_eps": 1e-3,
    },
    "esm of another base, with the mask in the texts": tiny.ESM | {"rope_theta": 50.0, "mask_token_id": 98},
    "mpnet": tiny.MPNET,
    "albert": tiny.ALBERT,
    "ernie": tiny.ERNIE,
    "ernie with task types": tiny.ERNIE | {"use_task_id": True},
    "clip text": tiny.CLIP_TEXT,
    "clip text with the old end of text": tiny.CLIP_TEXT | {"eos_token_id": 2, "hidden_act": "gelu"},
    "metaclip 2 text with the id that was the old end of text in clip": tiny.METACLIP_2_TEXT,
    "chinese clip text": tiny.CHINESE_CLIP_TEXT,
    "siglip text": tiny.SIGLIP_TEXT,
    "siglip text with a head of another width": tiny.SIGLIP_TEXT | {"projection_size": 32},
    "tipsv2 text": tiny.TIPSV2_TEXT,
    "tipsv2 text of an odd width, not scaled": tiny.TIPSV2_TEXT
    | {"hidden_size": 15, "num_attention_heads": 3, "scale_sqrt_depth": False, "hidden_act": "gelu"},
    "distilbert": tiny.DISTILBERT,
    "gte": tiny.GTE,
    "gte without token types, of another base": tiny.GTE | {"type_vocab_size": 0, "rope_theta": 50.0},
    "jina embeddings v3": tiny.JINA,
    "squeezebert": tiny.SQUEEZEBERT,
    "mobilebert": tiny.MOBILEBERT,
    "mobilebert of one mlp, with gelu": tiny.MOBILEBERT
    | {"num_feedforward_networks": 1, "hidden_act": "gelu"},
    "electra": tiny.ELECTRA,
    "electra of one width": tiny.ELECTRA | {"embedding_size": 24},
    "bert with relu and a large epsilon": tiny.BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-3},
}
# Types of which only a quarter is compared every day.
RARE = set(
    """vit_msn vit_mae ijepa data2vec-vision chinese_clip_vision_model mlcd_vision_model aimv2_vision_model
    data2vec-text roberta-prelayernorm xlm-roberta-xl megatron-bert rembert squeezebert mobilebert luke ibert gte esm
    xmod roformer convbert bert-generation big_bird longformer tipsv2_vision_model tipsv2_text_model
    jina_embeddings_v3""".split()
)
# AIMv2 that is made for one size takes no other.
RESIZED = {name: hf for name, hf in VISION.items() if name != "aimv2"}
# Weights of entities, of adapters of other languages, buffers of quantisation and positions that are computed.
PARTLY_READ = ("luke", "ibert", "xmod", "roformer")
# Types with a test file of their own.
APART = set(
    """eva02 perception_encoder clip_resnet coca_vision coca_text vitamin siglip2_vision_model
    convnext convnextv2 dinov3_convnext resnet bit hiera swin swinv2 deberta deberta-v2 modernbert
    qwen2 qwen3 llama eurobert mistral gemma gemma2 gemma3_text
    dpr t5 mt5 umt5 nomic_bert bart mbart m2m_100 marian
    fastvit mobileclip_vit mobileclip_text""".split()
)
TOWERS = {name: ("vision", hf) for name, hf in VISION.items()} | {
    name: ("text", hf) for name, hf in TEXT.items()
}


def cases(table):
    """The values of a table as cases with its names; three out of four cases of rare types are slow."""
    rare, found = 0, []
    for name, value in table.items():
        hf = value[1] if isinstance(value, tuple) else value
        rare += (is_rare := hf["model_type"] in RARE)
        slow = [pytest.mark.slow] if is_rare and rare % 4 else []
        found.append(pytest.param(*(value if isinstance(value, tuple) else [value]), id=name, marks=slow))
    return found


def test_every_architecture_that_claims_parity_is_compared():
    compared = {hf["model_type"] for _, hf in TOWERS.values()} | APART
    claimed = {name for table in (encoders.VISION, encoders.TEXT) for name, e in table.items() if e.parity}
    assert compared == claimed
    # The tolerance of assert_same_layers.
    assert all(e.parity == 1e-5 for e in (encoders.VISION | encoders.TEXT).values())


@pytest.mark.sampled(7)
@pytest.mark.parametrize("hf", cases(VISION))
def test_a_vision_tower_equals_pytorch_at_every_layer(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(hf["image_size"])
    want = theirs(
        torch.from_numpy(images.transpose(0, 3, 1, 2)), output_hidden_states=True, output_attentions=True
    )
    got = module.apply({"params": params}, jnp.asarray(images), hidden_states=True, attentions=True)
    assert_same_layers(layers(got), layers(want, how_of(hf)))


@pytest.mark.sampled(22)
@pytest.mark.parametrize("hf", cases(RESIZED))
@pytest.mark.parametrize("size", [24, 40, (48, 64)], ids=str)
def test_a_vision_tower_equals_pytorch_at_other_sizes(hf, size, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    height, width = size if isinstance(size, tuple) else (size, size)
    images = pixels(64)[:, :height, :width]
    extra = {"interpolate_pos_encoding": True} if hf["model_type"] in ASKED else {}
    want = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **extra)
    got = module.apply({"params": params}, jnp.asarray(images), interpolate=True)
    assert_same_layers(
        {"last": got.last_hidden_state, "pooled": got.pooler_output},
        {"last": want.last_hidden_state, "pooled": pooled(want, how_of(hf))},
    )


@pytest.mark.sampled(11)
@pytest.mark.parametrize("hf", cases(TEXT))
@pytest.mark.parametrize("inputs", ["ids alone", "mask and types", "positions"])
def test_a_text_tower_equals_pytorch_at_every_layer(hf, inputs, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts()
    if inputs == "ids alone":
        batch = {"input_ids": batch["input_ids"]}
    if inputs == "positions":
        batch["position_ids"] = np.arange(14, 2, -1, dtype=np.int32)[None]
    want = theirs(**in_torch(batch), output_hidden_states=True, output_attentions=True)
    got = module.apply(
        {"params": params}, **jax.tree.map(jnp.asarray, batch), hidden_states=True, attentions=True
    )
    assert_same_layers(layers(got), layers(want))


@pytest.mark.sampled(37)
@pytest.mark.parametrize(("tower", "hf"), cases(TOWERS))
def test_the_gradient_of_every_leaf_equals_pytorch(tower, hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower(tower, tmp_path)
    if tower == "vision":
        images = pixels(hf["image_size"])
        inputs = {"images": jnp.asarray(images)}
        theirs_in = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2))}
    else:
        theirs_in = in_torch(texts())
        inputs = jax.tree.map(jnp.asarray, texts())

    output = pooled(theirs(**theirs_in), how_of(hf))
    weight = np.random.default_rng(3).normal(size=tuple(output.shape)).astype(np.float32)
    (output * torch.from_numpy(weight)).sum().backward()
    want = torch_gradients(theirs, tower, tmp_path / "gradients")

    def loss(params):
        return (module.apply({"params": params}, **inputs).pooler_output * weight).sum()

    assert_same_gradients(jax.jit(jax.grad(loss))(params), want)


@pytest.mark.parametrize(("tower", "hf"), cases(TOWERS))
def test_weights_go_to_jax_and_back_to_the_same_bits(tower, hf, tmp_path):
    torch_tower(hf, tmp_path)
    _, table, params = our_tower(tower, tmp_path)
    stored = dict(model_folder.Tensors.of(tmp_path))
    written = table.to_hf(params)
    encoder = encoder_of(tower, hf["model_type"])
    _, names = matched(stored, encoder, encoder.Config.from_hf(hf))  # Names of transformers 4, unlike 5.
    assert written.keys() == set(names.values())
    assert names.keys() == stored.keys() or hf["model_type"] in PARTLY_READ
    for name in names:
        tensor = stored[name]
        np.testing.assert_array_equal(written[names[name]], tensor, err_msg=name)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("tower", "hf"), cases(TOWERS))
def test_names_that_transformers_5_has_in_memory_are_understood(tower, hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    _, _, params = our_tower(tower, tmp_path)
    raw = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    safetensors.torch.save_file(raw, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, _, same = our_tower(tower, tmp_path)
    chex.assert_trees_all_equal(same, params)
