"""Vision transformers that output their CLS token: npz files of google-research/vision_transformer and big_vision."""

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from lit_jax.hf.conversions import jax_arrays
from lit_jax.hf.conversions.base import Format, Model, Part
from lit_jax.hf.conversions.jax_arrays import VIT_NAMES, Arrays, block_rows, npz_of, read_blocks
from lit_jax.hf.conversions.renames import bound, converted, rows, under
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import ImageProcessor, Tokenizer

_CLS, _PATCHES = "cls", "embedding/kernel"
_POSITIONS = "Transformer/posembed_input/pos_embedding"  # Those of the CLS token and the patches.
_OWN_POSITIONS = "pos_embedding"  # Those of only the patches, in big_vision.
_IMAGE = rows("""
    cls                            | embeddings.cls_token                           | x y d
    embedding/kernel               | embeddings.patch_embeddings.projection.weight  | p q c d -> d c p q
    embedding/bias                 | embeddings.patch_embeddings.projection.bias    | d
    Transformer/encoder_norm/scale | layernorm.weight                               | d
    Transformer/encoder_norm/bias  | layernorm.bias                                 | d
""")
_ALL_POSITIONS = rows(f"{_POSITIONS} | embeddings.position_embeddings | x n d")
_POOLER = rows("""
    pre_logits/kernel | pooler.dense.weight | d e -> e d
    pre_logits/bias   | pooler.dense.bias   | e
""")


def image_tower(arrays: Arrays, theirs: str, hf: str) -> Part:
    """The tower whose names begin with `theirs` in the file and with `hf` in Hugging Face's layout.

    Its pooled output is the CLS token after the last norm; if there is a layer before the logits, it is applied to
    that, with tanh, as in transformers' ViT. Raises WeightError.
    """
    kernel, before = f"{theirs}{_PATCHES}", f"{theirs}Transformer/encoderblock_"
    blocks = read_blocks(arrays, before)
    width, patch = arrays.size(kernel, 3, 4), arrays.size(kernel, 0, 4)
    own_positions = f"{theirs}{_OWN_POSITIONS}" in arrays
    table = f"{theirs}{_OWN_POSITIONS if own_positions else _POSITIONS}"
    pooler = f"{theirs}pre_logits/kernel" in arrays
    config = {
        "model_type": "vit",
        "image_size": math.isqrt(max(0, arrays.size(table, 1, 3) - (not own_positions))) * patch,
        "patch_size": patch,
        "num_channels": arrays.size(kernel, 2, 4),
        "hidden_size": width,
        "num_hidden_layers": blocks.depth,
        "num_attention_heads": blocks.heads,
        "intermediate_size": blocks.hidden,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "pooler_act": "tanh" if pooler else "linear",
    }
    own = under(_IMAGE + (() if own_positions else _ALL_POSITIONS) + (_POOLER if pooler else ()), theirs, hf)
    own += block_rows(blocks, VIT_NAMES, before + "{l}/", hf + "encoder.layer.{l}.")
    made = {}
    if own_positions:
        made["embeddings.position_embeddings"] = lambda: _with_cls(arrays[table])
    if not pooler:
        made["pooler.dense.weight"] = lambda: np.eye(width, dtype=np.float32)
        made["pooler.dense.bias"] = lambda: np.zeros(width, np.float32)
    return Part(
        config,
        bound(own, blocks.depth, h=blocks.heads),
        {hf + name: make for name, make in made.items()},
        dropped=theirs + _OWN_POSITIONS if own_positions else r"(?!)",
    )


def squares(path: Path, side: int) -> ImageProcessor:
    """The image processor of these projects, which resizes pictures to a square and maps pixels to -1 .. 1."""
    from lit_jax.hf.conversions.pictures import square_processor

    half = [0.5] * 3
    return square_processor(path, side=side, mode="squash", interpolation="bilinear", mean=half, std=half)


def _with_cls(positions: np.ndarray) -> np.ndarray:
    """The positions [1, 1 + N, D], with zeros for the CLS token, which has none."""
    return np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)


def _read(path: Path, allow_pickle: bool) -> Model:
    arrays = Arrays(npz_of(path) or path)
    if "conv_root/kernel" in arrays:
        raise WeightError(
            f"{arrays.path} is a hybrid of a ResNet and a ViT, which is not implemented; a ViT is"
        )
    part = image_tower(arrays, "", "")
    dropped = rf"{part.dropped}|head/(kernel|bias)"  # Drops the classifier.
    return Model(part.config, converted(arrays.path, arrays, part.rows, made=part.made, dropped=dropped))


def _image_processor(path: Path) -> ImageProcessor:
    return squares(path, image_tower(Arrays(npz_of(path) or path), "", "").config["image_size"])


def no_tokenizer(path: Path) -> Tokenizer:
    """Raises WeightError."""
    raise WeightError(f"{path} is a single image tower and has no tokenizer; take that of a text tower")


def is_among(names: Collection[str], theirs: str) -> bool:
    """Whether an npz file with arrays of these names has such a tower, whose names begin with `theirs`."""
    positions = theirs + _POSITIONS in names or theirs + _OWN_POSITIONS in names
    return positions and theirs + _CLS in names and theirs + _PATCHES in names


def _is_vit(path: Path) -> bool:
    return is_among(jax_arrays.names_in(path), "")


FORMAT = Format("a ViT of vision_transformer or big_vision", _is_vit, _read, _image_processor, no_tokenizer)
