"""Models of other projects for tests: names and shapes are stored, weights are random and seeded by the name."""

import json
import re
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import lit_jax
from lit_jax.utils.errors import WeightError

HERE = Path(__file__).parents[2] / "fixtures" / "foreign"
WEIGHTS = {"open_clip": "open_clip_model.safetensors", "timm": "model.safetensors"}
# Kernels of CLIP's ResNets and of FastViTs, large enough that the pictures decide the vectors and not the biases.
_LARGE_KERNELS = (
    r"^visual\.(layer\d|conv[23]\.)|(conv_kxk\.0|conv_scale|large_conv|small_conv|mlp\.conv)\.conv\.|"
    r"reparam_conv\.|pos_enc\.|patch_embed\.backbone\.\d"
)
NPZ = ("lit_npz", "siglip_npz", "vit_npz", "bit_npz")


def drawn(name, shape):
    """Random float32 numbers, seeded by the name, also for leaves that start at 0 or 1."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(values + 1)  # Variances are above zero.
    if re.search(_LARGE_KERNELS, name) and len(shape) == 4:
        return values * np.float32(1.5 / np.prod(shape[1:]) ** 0.5)
    if len(shape) > 1:
        return values * np.float32(0.1)
    return np.asarray(values * np.float32(0.3) + np.float32(name.endswith(("weight", "scale", "gamma"))))


def images(side):
    return jnp.asarray(np.random.default_rng(1).normal(size=(8, side, side, 3)), jnp.float32)


def ids(vocabulary, length, pad, end):
    """[8, length]: tokens, `end`, then `pad`."""
    random = np.random.default_rng(2)
    rows = np.full((8, length), pad)
    for row, number in zip(rows, range(3, length, max(1, length // 9)), strict=False):
        row[:number] = random.integers(4, vocabulary - 2, number)
        row[number] = end
    return rows


def to_the_limits(ids, pad):
    """Changes `ids` in place: the first text becomes empty, the last one fills its row, others get a `pad` inside."""
    end = ids[0].max()
    ids[0] = pad
    ids[0, :2] = 5, end
    ids[-1] = np.where(ids[-1] == pad, 7, ids[-1])
    ids[-1, ids[-1] == end] = 9
    ids[-1, -1] = end
    ids[[3, 5], 2] = pad
    ids[4, 3:5] = pad


def stored(name):
    return json.loads((HERE / f"{name}.json").read_text())


def names(layout):
    return sorted(
        path.stem for path in HERE.glob("*.json") if json.loads(path.read_text())["layout"] == layout
    )


def write(folder, model, *, without=(), **other):
    """Writes a model as a folder or an npz file; `without` and `other` (name -> array) change its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model["files"].items():
        (folder / name).write_text(json.dumps(content))
    tensors = {
        name: drawn(name, tuple(shape)) for name, shape in model["shapes"].items() if name not in without
    }
    if model["layout"] in NPZ:
        np.savez(folder / "model.npz", **tensors | other)
        return folder / "model.npz"
    safetensors.numpy.save_file(tensors | other, folder / WEIGHTS[model["layout"]])
    return folder


def assert_refused(name, change, said, folder, text):
    """Asserts that the stored model with another config is refused in one line that holds `said`, a regex."""
    model = stored(name)
    model["files"]["config.json"] |= change
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.from_towers(write(folder, model), text)
    assert "\n" not in str(error.value)


def assert_kernels_checked(name, what, tensors, folder, text):
    """Asserts that errors name the tensors that are missing, one that `what` lacks, and a kernel that is a vector.

    `tensors` are the names of these: a list and two more.
    """
    lost, extra, flat = tensors
    model = stored(name)
    for tensor in lost:
        with pytest.raises(WeightError, match=f"missing from the checkpoint: {tensor}"):
            lit_jax.from_towers(write(folder / tensor, model, without=(tensor,)), text)
    more = {extra: np.ones((4, 4, 1, 1), np.float32)}
    with pytest.raises(WeightError, match=f"not in the table: {re.escape(extra)}"):
        lit_jax.from_towers(write(folder / "more", model, **more), text)
    vector = {flat: np.ones(3, np.float32)}
    with pytest.raises(WeightError, match=f"the tensors of the image tower are not those of {what}"):
        lit_jax.from_towers(write(folder / "flat", model, without=(flat,), **vector), text)
