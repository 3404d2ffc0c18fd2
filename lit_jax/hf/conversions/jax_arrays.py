"""What the npz files of Google's JAX projects have in common: their names for arrays, and Hugging Face's."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf import model_folder
from lit_jax.hf.conversions.renames import Rows, bound, count, rows, under
from lit_jax.hf.formats.npz import NpzFile
from lit_jax.utils.errors import WeightError

# A block. A, N and M stand for the numbers that Flax gave to the attention, the second norm and the MLP.
_BLOCK = """
    LayerNorm_0/scale                     | NORM1.weight   | d
    LayerNorm_0/bias                      | NORM1.bias     | d
    MultiHeadDotProductAttention_A/query/kernel | QUERY.weight | d h k -> (h k) d
    MultiHeadDotProductAttention_A/query/bias   | QUERY.bias   | h k -> (h k)
    MultiHeadDotProductAttention_A/key/kernel   | KEY.weight   | d h k -> (h k) d
    MultiHeadDotProductAttention_A/key/bias     | KEY.bias     | h k -> (h k)
    MultiHeadDotProductAttention_A/value/kernel | VALUE.weight | d h k -> (h k) d
    MultiHeadDotProductAttention_A/value/bias   | VALUE.bias   | h k -> (h k)
    MultiHeadDotProductAttention_A/out/kernel   | OUT.weight   | h k d -> d (h k)
    MultiHeadDotProductAttention_A/out/bias     | OUT.bias     | d
    LayerNorm_N/scale                     | NORM2.weight   | d
    LayerNorm_N/bias                      | NORM2.bias     | d
    MlpBlock_M/Dense_0/kernel             | UP.weight      | d f -> f d
    MlpBlock_M/Dense_0/bias               | UP.bias        | f
    MlpBlock_M/Dense_1/kernel             | DOWN.weight    | f d -> d f
    MlpBlock_M/Dense_1/bias               | DOWN.bias      | d
"""
VIT_NAMES = {
    "NORM1": "layernorm_before",
    "NORM2": "layernorm_after",
    "QUERY": "attention.attention.query",
    "KEY": "attention.attention.key",
    "VALUE": "attention.attention.value",
    "OUT": "attention.output.dense",
    "UP": "intermediate.dense",
    "DOWN": "output.dense",
}
CLIP_NAMES = {
    "NORM1": "layer_norm1",
    "NORM2": "layer_norm2",
    "QUERY": "self_attn.q_proj",
    "KEY": "self_attn.k_proj",
    "VALUE": "self_attn.v_proj",
    "OUT": "self_attn.out_proj",
    "UP": "mlp.fc1",
    "DOWN": "mlp.fc2",
}
_NUMBERS, _OLD_NUMBERS = (0, 1, 0), (1, 2, 3)  # A, N and M; the old ones are those of Flax before Linen.
_PARAMS = "params/"
TEXT = rows("""
    Embed_0/embedding            | embeddings.token_embedding.weight    | v d
    pos_embedding                | embeddings.position_embedding.weight | x n d -> (x n) d
    Encoder_0/encoder_norm/scale | final_layer_norm.weight              | d
    Encoder_0/encoder_norm/bias  | final_layer_norm.bias                | d
    head/kernel                  | head.weight                          | d e -> e d
    head/bias                    | head.bias                            | e
""")


class Blocks(NamedTuple):
    """The blocks of a transformer, as their arrays show them."""

    depth: int
    heads: int
    hidden: int
    numbers: tuple[int, int, int]


def read_blocks(arrays: "Arrays", theirs: str) -> Blocks:
    """The blocks whose names begin with `theirs`, up to the number of the layer. Raises WeightError."""
    first = f"{theirs}0/"
    old = f"{first}MultiHeadDotProductAttention_{_OLD_NUMBERS[0]}/query/kernel" in arrays
    numbers = _OLD_NUMBERS if old else _NUMBERS
    return Blocks(
        count(arrays, rf"{theirs}(\d+)/"),
        arrays.size(f"{first}MultiHeadDotProductAttention_{numbers[0]}/query/kernel", 1, 3),
        arrays.size(f"{first}MlpBlock_{numbers[2]}/Dense_0/bias", 0, 1),
        numbers,
    )


def block_rows(blocks: Blocks, names: Mapping[str, str], theirs: str, hf: str) -> Rows:
    """The rows of the blocks; `theirs` and `hf` are the prefixes of their names, including the layer."""
    text = _BLOCK
    for letter, number in zip("ANM", blocks.numbers, strict=True):
        text = re.sub(rf"_{letter}/", f"_{number}/", text)
    for name, meant in names.items():
        text = re.sub(rf"\b{name}\.", f"{meant}.", text)
    return under(rows(text), theirs, hf)


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an npz file by name, with stacked layers taken apart.

    From a training checkpoint, only the arrays under `params/` are taken, without this prefix; `opt/` and `extra/` are
    left out.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, NpzFile(path)
        names = [name for name in self._file.keys() if name.startswith(_PARAMS)]  # noqa: SIM118 - not a mapping
        prefix = _PARAMS if names else ""
        self._where: dict[str, tuple[str, int | None]] = {}
        self._stacks: dict[str, np.ndarray] = {}
        for stored in names or self._file.keys():
            name, shape = stored.removeprefix(prefix), self._file.shape(stored)
            if "/encoderblock/" in name and shape:
                for layer in range(min(shape[0], 1000)):
                    self._where[name.replace("/encoderblock/", f"/encoderblock_{layer}/")] = stored, layer
            else:
                self._where[name] = stored, None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array. Raises WeightError if there is no such array."""
        if name not in self._where:
            raise WeightError(f"{self.path}: missing from the checkpoint: {name}")
        stored, layer = self._where[name]
        return self._file.shape(stored)[layer is not None :]

    def size(self, name: str, axis: int, axes: int) -> int:
        """The size of an array along `axis`. Raises WeightError unless it has `axes` axes."""
        if len(shape := self.shape(name)) != axes:
            raise WeightError(f"{self.path}: {name} has shape {shape} where {axes} axes are wanted")
        return shape[axis]

    def __getitem__(self, name: str) -> np.ndarray:
        stored, layer = self._where[name]
        if layer is None:
            return self._file.get_tensor(stored)
        if stored not in self._stacks:
            self._stacks[stored] = self._file.get_tensor(stored)
        return self._stacks[stored][layer]

    def __iter__(self) -> Any:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def npz_of(path: Path) -> Path | None:
    """The npz file at a path: that file itself, or the only one in a folder, unless that has a config.json."""
    if path.is_file() and path.suffix == ".npz":
        return path
    of_others = (path / model_folder.CONFIG).is_file()
    found = sorted(path.glob("*.npz")) if path.is_dir() and not of_others else []
    return found[0] if len(found) == 1 else None


def text_tower(arrays: Arrays) -> tuple[dict[str, Any], Rows]:
    """The config and rows of the text transformer of both projects, which is that of SigLIP."""
    theirs = "txt/Encoder_0/encoderblock_"
    blocks = read_blocks(arrays, theirs)
    config = {
        "model_type": "siglip_text_model",
        "vocab_size": arrays.size("txt/Embed_0/embedding", 0, 2),
        "hidden_size": arrays.size("txt/Embed_0/embedding", 1, 2),
        "max_position_embeddings": arrays.size("txt/pos_embedding", 1, 3),
        "num_hidden_layers": blocks.depth,
        "num_attention_heads": blocks.heads,
        "intermediate_size": blocks.hidden,
        "projection_size": arrays.size("txt/head/bias", 0, 1),
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
    own = under(TEXT, "txt/", "text_model.")
    own += block_rows(blocks, CLIP_NAMES, theirs + "{l}/", "text_model.encoder.layers.{l}.")
    return config, bound(own, blocks.depth, h=blocks.heads)


def names_in(path: Path) -> Collection[str]:
    """The names of the arrays of an npz file, or of the one in a folder; none for anything else. Raises WeightError."""
    file = npz_of(path)
    return () if file is None else Arrays(file).keys()
