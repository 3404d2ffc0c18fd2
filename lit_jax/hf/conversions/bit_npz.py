"""Big Transfer (arXiv:1912.11370) as Google published it, in npz files, as transformers' BitModel.

Google's code adds 1e-10 to the variance of a kernel; transformers and timm add 1e-8, and so does lit_jax.
"""

import re
from dataclasses import replace
from pathlib import Path

from lit_jax.hf.conversions.base import Format, Model
from lit_jax.hf.conversions.jax_arrays import Arrays, names_in, npz_of
from lit_jax.hf.conversions.renames import Rows, converted, count, rows, under
from lit_jax.hf.conversions.vit_npz import no_tokenizer, squares
from lit_jax.models.encoders.bit import UNITS
from lit_jax.utils.typing import ImageProcessor

_SIDE = 224  # Pictures of any size fit, and a file does not say for which it was trained.
_MODEL, _CONV = "resnet/", "standardized_conv2d"
_STEM = "embedder.convolution.weight"
_OUTER = rows(f"""
    {_MODEL}root_block/{_CONV}/kernel | {_STEM}     | p q c d -> d c p q
    {_MODEL}group_norm/gamma          | norm.weight | d
    {_MODEL}group_norm/beta           | norm.bias   | d
""")
_UNIT = rows(f"""
    a/group_norm/gamma | norm1.weight | d
    a/group_norm/beta  | norm1.bias   | d
    a/{_CONV}/kernel   | conv1.weight | p q c d -> d c p q
    b/group_norm/gamma | norm2.weight | d
    b/group_norm/beta  | norm2.bias   | d
    b/{_CONV}/kernel   | conv2.weight | p q c d -> d c p q
    c/group_norm/gamma | norm3.weight | d
    c/group_norm/beta  | norm3.bias   | d
    c/{_CONV}/kernel   | conv3.weight | p q c d -> d c p q
""")
_SHORTCUT = rows(f"a/proj/{_CONV}/kernel | downsample.conv.weight | p q c d -> d c p q")
_CLASSIFIER = rf"{_MODEL}head/conv2d/(kernel|bias)"


def _read(path: Path, allow_pickle: bool) -> Model:
    arrays = Arrays(npz_of(path) or path)
    stages = range(count(arrays, rf"{_MODEL}block(\d+)/"))
    depths = [max(1, count(arrays, rf"{_MODEL}block{stage + 1}/unit(\d+)/")) for stage in stages]
    # In some files, convolutions are numbered.
    stored = {re.sub(rf"/{_CONV}_\d+/", f"/{_CONV}/", name): name for name in arrays}
    table = tuple(replace(row, hf=stored.get(row.hf, row.hf)) for row in _table(depths))
    theirs = {row.jax: row.hf for row in table}

    def width(hf: str) -> int:
        return arrays.size(theirs[hf], 3, 4)

    config = {
        "model_type": "bit",
        "image_size": _SIDE,
        "num_channels": arrays.size(theirs[_STEM], 2, 4),
        "embedding_size": width(_STEM),
        "hidden_sizes": [width(f"encoder.stages.{stage}.layers.0.conv{UNITS}.weight") for stage in stages],
        "depths": depths,
    }
    return Model(config, converted(arrays.path, arrays, table, made={}, dropped=_CLASSIFIER))


def _table(depths: list[int]) -> Rows:
    table = _OUTER
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            theirs = f"{_MODEL}block{stage + 1}/unit{layer + 1:02}/"
            unit = _UNIT if layer else _UNIT + _SHORTCUT
            table += under(unit, theirs, f"encoder.stages.{stage}.layers.{layer}.")
    return table


def _image_processor(path: Path) -> ImageProcessor:
    return squares(path, _SIDE)


def _is_bit(path: Path) -> bool:
    return any(name.startswith((f"{_MODEL}root_block/", f"{_MODEL}block1/")) for name in names_in(path))


FORMAT = Format("a BiT of big_transfer", _is_bit, _read, _image_processor, no_tokenizer)
