"""SigLIP and SigLIP 2 (arXiv:2303.15343, 2502.14786): npz files of google-research/big_vision."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from lit_jax.hf.conversions import jax_arrays
from lit_jax.hf.conversions.base import Format, Model, Part
from lit_jax.hf.conversions.jax_arrays import CLIP_NAMES, Arrays, block_rows, npz_of, read_blocks, text_tower
from lit_jax.hf.conversions.renames import bound, converted, rows, under
from lit_jax.utils.typing import ImageProcessor, Tokenizer

_SCALARS = rows("t | logit_scale | 1\nb | logit_bias | 1")
# The patches of pictures of one size, and of any shape (NaFlex).
_PATCHES = rows("embedding/kernel | embeddings.patch_embedding.weight | p q c d -> d c p q")
_NAFLEX_PATCHES = rows("embedding/kernel | embeddings.patch_embedding.weight | v d -> d v")
_IMAGE = rows("""
    embedding/bias                 | embeddings.patch_embedding.bias      | d
    pos_embedding                  | embeddings.position_embedding.weight | x n d -> (x n) d
    Transformer/encoder_norm/scale | post_layernorm.weight                | d
    Transformer/encoder_norm/bias  | post_layernorm.bias                  | d

    MAPHead_0/probe                | head.probe                           | x y d
    MAPHead_0/MultiHeadDotProductAttention_0/out/kernel | head.attention.out_proj.weight | h k d -> d (h k)
    MAPHead_0/MultiHeadDotProductAttention_0/out/bias   | head.attention.out_proj.bias   | d
    MAPHead_0/LayerNorm_0/scale    | head.layernorm.weight                | d
    MAPHead_0/LayerNorm_0/bias     | head.layernorm.bias                  | d
    MAPHead_0/MlpBlock_0/Dense_0/kernel | head.mlp.fc1.weight             | d f -> f d
    MAPHead_0/MlpBlock_0/Dense_0/bias   | head.mlp.fc1.bias               | f
    MAPHead_0/MlpBlock_0/Dense_1/kernel | head.mlp.fc2.weight             | f d -> d f
    MAPHead_0/MlpBlock_0/Dense_1/bias   | head.mlp.fc2.bias               | d
""")
_QUERIES = "img/MAPHead_0/MultiHeadDotProductAttention_0"
_C4_WORDS = 32_000  # SigLIP's vocabulary; SigLIP 2 has Gemma's.


def _read(path: Path, allow_pickle: bool) -> Model:
    arrays = Arrays(npz_of(path) or path)
    image, (text, own) = _image(arrays), text_tower(arrays)
    model_type = "siglip2" if _is_naflex(arrays) else "siglip"
    config = {"model_type": model_type, "vision_config": image.config, "text_config": text}
    return Model(
        config,
        converted(arrays.path, arrays, image.rows + own + _SCALARS, made=image.made, dropped=image.dropped),
    )


def _image(arrays: Arrays) -> Part:
    theirs = "img/Transformer/encoderblock_"
    blocks, naflex = read_blocks(arrays, theirs), _is_naflex(arrays)
    if naflex:
        config = {
            "model_type": "siglip2_vision_model",
            "num_patches": math.prod(arrays.shape("img/pos_embedding")[:2]),
            "patch_size": math.isqrt(arrays.size("img/embedding/kernel", 0, 2) // 3),
        }
    else:
        patch = arrays.size("img/embedding/kernel", 0, 4)
        config = {
            "model_type": "siglip_vision_model",
            "image_size": math.isqrt(arrays.size("img/pos_embedding", 1, 3)) * patch,
            "patch_size": patch,
            "num_channels": arrays.size("img/embedding/kernel", 2, 4),
        }
    config |= {
        "hidden_size": arrays.size("img/embedding/bias", 0, 1),
        "num_hidden_layers": blocks.depth,
        "num_attention_heads": blocks.heads,
        "intermediate_size": blocks.hidden,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
    own = under((_NAFLEX_PATCHES if naflex else _PATCHES) + _IMAGE, "img/", "vision_model.")
    own += block_rows(blocks, CLIP_NAMES, theirs + "{l}/", "vision_model.encoder.layers.{l}.")
    head = "vision_model.head.attention.in_proj"
    made = {
        f"{head}_weight": partial(_joined, arrays, "kernel"),
        f"{head}_bias": partial(_joined, arrays, "bias"),
    }
    return Part(
        config, bound(own, blocks.depth, h=blocks.heads), made, rf"{_QUERIES}/(query|key|value)/(kernel|bias)"
    )


def _is_naflex(arrays: Arrays) -> bool:
    """Whether pictures have any shape: their patches are multiplied as lists of numbers."""
    return len(arrays.shape("img/embedding/kernel")) == 2


def _joined(arrays: Arrays, kind: str) -> np.ndarray:
    """The query, key and value of the pooling, stacked as in PyTorch's MultiheadAttention."""
    names = [f"{_QUERIES}/{part}/{kind}" for part in ("query", "key", "value")]
    for name in names:
        arrays.size(name, 0, 3 if kind == "kernel" else 2)
    parts = [arrays[name] for name in names]
    return np.concatenate(
        [part.reshape(len(part), -1).T if kind == "kernel" else part.reshape(-1) for part in parts]
    )


def _image_processor(path: Path) -> ImageProcessor:
    from lit_jax.hf.conversions.pictures import naflex_processor, square_processor

    config, half = _image(Arrays(npz_of(path) or path)).config, [0.5] * 3
    if "num_patches" in config:
        return naflex_processor(path, patches=config["num_patches"], side=config["patch_size"])
    side = config["image_size"]
    return square_processor(path, side=side, mode="squash", interpolation="bilinear", mean=half, std=half)


def _tokenizer(path: Path) -> Tokenizer:
    from lit_jax.hf.conversions import vocabularies

    arrays = Arrays(npz_of(path) or path)
    c4 = arrays.size("txt/Embed_0/embedding", 0, 2) <= _C4_WORDS
    return vocabularies.sentence_pieces(
        arrays.path,
        arrays.size("txt/pos_embedding", 1, 3),
        cleaning="canonicalize" if c4 else "lower",
        pad="</s>" if c4 else "<pad>",
    )


def _is_siglip(path: Path) -> bool:
    return {"t", "b", "img/MAPHead_0/probe"} <= {*jax_arrays.names_in(path)}


FORMAT = Format("a SigLIP of big_vision", _is_siglip, _read, _image_processor, _tokenizer)
