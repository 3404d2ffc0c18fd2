"""Poolings of last hidden states against PyTorch's towers, pooled as sentence-transformers' Pooling does."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lit_jax.models.encoders import TEXT, VISION
from lit_jax.models.encoders.base import first_patch
from lit_jax.models.layers.pooling import POOLINGS, pool_tokens
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.parity.towers import in_torch, our_tower, pixels, run, texts, torch_tower

# Type -> (config, number of tokens before the patches).
PICTURES = {
    "vit": (tiny.VIT, 1),
    "deit": (tiny.DEIT, 2),
    "beit": (tiny.BEIT, 1),
    "clip": (tiny.CLIP_VISION, 1),
    "chinese clip": (tiny.CHINESE_CLIP_VISION, 1),
    "mlcd": (tiny.MLCD_VISION, 1),
    "siglip": (tiny.SIGLIP_VISION, 0),
    "aimv2": (tiny.AIMV2_VISION, 0),
    "vit msn": (tiny.VIT_MSN, 1),
    "vit mae": (tiny.VIT_MAE, 1),
    "i-jepa": (tiny.IJEPA, 0),
    "data2vec": (tiny.DATA2VEC_VISION, 1),
    "dinov2": (tiny.DINOV2, 1),
    "dinov2 with registers": (tiny.DINOV2_REGISTERS, 5),
    "dinov3": (tiny.DINOV3, 5),
    "tipsv2": (tiny.TIPSV2_VISION, 3),
    "swin": (tiny.SWIN, 0),
    "swinv2": (tiny.SWINV2, 0),
}
WORDS = {
    "bert": tiny.BERT,
    "roberta": tiny.ROBERTA,
    "xlm-roberta": tiny.XLM_ROBERTA,
    "camembert": tiny.CAMEMBERT,
    "data2vec text": tiny.DATA2VEC_TEXT,
    "x-mod": tiny.XMOD,
    "roformer": tiny.ROFORMER,
    "big bird": tiny.BIG_BIRD,
    "bert for generation": tiny.BERT_GENERATION,
    "convbert": tiny.CONVBERT,
    "luke": tiny.LUKE,
    "i-bert": tiny.IBERT,
    "roberta with the norms first": tiny.ROBERTA_PRE_NORM,
    "xlm-roberta xl": tiny.XLM_ROBERTA_XL,
    "megatron bert": tiny.MEGATRON_BERT,
    "rembert": tiny.REMBERT,
    "squeezebert": tiny.SQUEEZEBERT,
    "mobilebert": tiny.MOBILEBERT,
    "longformer": tiny.LONGFORMER,
    "esm": tiny.ESM,
    "mpnet": tiny.MPNET,
    "albert": tiny.ALBERT,
    "ernie": tiny.ERNIE,
    "clip": tiny.CLIP_TEXT,
    "siglip": tiny.SIGLIP_TEXT,
    "tipsv2": tiny.TIPSV2_TEXT,
    "distilbert": tiny.DISTILBERT,
    "electra": tiny.ELECTRA,
    "deberta": tiny.DEBERTA,
    "deberta-v2": tiny.DEBERTA_V2,
    "modernbert": tiny.MODERNBERT,
    "t5": tiny.T5,
    "mt5": tiny.MT5,
    "umt5": tiny.UMT5,
    "bart": tiny.BART,
    "mbart": tiny.MBART,
    "m2m 100": tiny.M2M_100,
    "marian": tiny.MARIAN,
    "nomic_bert": tiny.NOMIC_BERT,
    "gte": tiny.GTE,
    "jina": tiny.JINA,
    "qwen2": tiny.QWEN2,
    "qwen3": tiny.QWEN3,
    "llama": tiny.LLAMA,
    "mistral": tiny.MISTRAL,
    "eurobert": tiny.EUROBERT,
    "gemma": tiny.GEMMA,
    "gemma 2": tiny.GEMMA2,
    "gemma 3": tiny.GEMMA3_TEXT,
}


def in_pytorch(how, x, mask, prefix=0):
    """The formulas of sentence-transformers, on tokens [B N D] and a mask [B N]."""
    if how == "cls_mean":
        return torch.cat([in_pytorch(part, x, mask, prefix) for part in ("cls", "mean")], 1)
    if how == "last":
        # Its "lasttoken": the index of the last 1 in the mask, on whichever side the padding lies.
        index = mask.shape[1] - 1 - mask.flip(1).max(1).indices
        return x[torch.arange(len(x)), index]
    if how == "cls":
        return x[torch.arange(len(x)), mask.max(1).indices]
    x, wide = x[:, prefix:], mask[:, prefix:, None].expand(x[:, prefix:].shape).float()
    if how == "mean":
        return (x * wide).sum(1) / wide.sum(1).clamp(min=1e-9)
    return x.masked_fill(wide == 0, -1e9).max(1).values


def assert_all(x, theirs, mask, prefix, names):
    for how in names:
        want = in_pytorch(how, theirs, torch.from_numpy(mask).long(), prefix).detach()
        got = pool_tokens(how, x, jnp.asarray(mask), prefix)
        bound = 1e-5 * max(1.0, float(want.abs().max()))
        np.testing.assert_allclose(np.asarray(got), want.numpy(), rtol=0, atol=bound, err_msg=how)


@pytest.mark.sampled(17)
@pytest.mark.parametrize(("hf", "prefix"), PICTURES.values(), ids=PICTURES)
def test_pictures_are_pooled_without_the_tokens_before_the_patches(hf, prefix, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(hf["image_size"])
    want = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).last_hidden_state
    x = run(module, params, {"images": images}).last_hidden_state
    encoder = VISION[hf["model_type"]]
    assert first_patch(module.config) == prefix
    names = encoder.poolings_of_tokens(module.config)
    assert set(POOLINGS) - set(names) == (set() if prefix else {"cls", "cls_mean"})
    assert_all(x, want, np.ones(x.shape[:2], np.int32), prefix, names)
    if not prefix:
        with pytest.raises(
            ConfigError, match="vision_pooling is 'cls'; wanted one of pooler, mean, last, max"
        ):
            encoder.pooled(module.config, "cls")


@pytest.mark.sampled(13)
@pytest.mark.parametrize("hf", WORDS.values(), ids=WORDS)
def test_texts_are_pooled_over_the_tokens_of_the_mask(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    batch = texts(pad=hf.get("pad_token_id", 0))
    if not getattr(module.config, "type_vocab_size", 0):
        del batch["token_type_ids"]
    left = {name: np.ascontiguousarray(value[:, ::-1]) for name, value in batch.items()}
    for inputs in (batch, left):
        want = theirs(**in_torch(inputs)).last_hidden_state
        x = run(module, params, inputs).last_hidden_state
        mask = inputs["attention_mask"]
        # A causal tower can give masked tokens any value, so only real tokens are compared.
        names = TEXT[hf["model_type"]].poolings_of_tokens(module.config)
        assert_all(x, want, mask, 0, names)
