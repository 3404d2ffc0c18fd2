"""Big Transfers of timm that are refused; test_timm.py compares the features."""

import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

CHANGES = [
    (
        {"architecture": "resnetv2_50x2_bit"},
        "'resnetv2_50x2_bit' of timm is not implemented; of its BiTs, resnetv2_50x1_bit, ",
    ),
    ({"model_args": {"output_stride": 8}}, "resnetv2_50x1_bit with output_stride=8 is not implemented"),
    ({"model_args": {"stem_type": "same"}}, "resnetv2_50x1_bit with stem_type='same' is not implemented"),
    ({"global_pool": "max"}, "resnetv2_50x1_bit with the pooling 'max' is not implemented; avg is"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_bit_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    model = foreign.stored("bit")
    config = model["files"]["config.json"]
    config["model_args"] = {}
    config |= change
    with pytest.raises(WeightError, match=said) as error:
        lit_jax.from_towers(foreign.write(tmp_path, model), text)
    assert "\n" not in str(error.value)


def test_tensors_that_a_bit_lacks_or_has_no_place_for_are_named(tmp_path, text):
    model = foreign.stored("bit")
    for name in ("stem.conv.weight", "stages.1.blocks.0.conv3.weight", "stages.2.blocks.0.norm2.bias"):
        with pytest.raises(WeightError, match=f"missing from the checkpoint: {name}"):
            lit_jax.from_towers(foreign.write(tmp_path / name, model, without=(name,)), text)
    extra = {"stages.1.blocks.1.downsample.conv.weight": np.ones((4, 4, 1, 1), np.float32)}
    with pytest.raises(
        WeightError, match=r"not in the table: stages\.1\.blocks\.1\.downsample\.conv\.weight"
    ):
        lit_jax.from_towers(foreign.write(tmp_path / "more", model, **extra), text)
    flat = {"stem.conv.weight": np.ones(3, np.float32)}
    with pytest.raises(WeightError, match="the tensors of the image tower are not those of a BiT"):
        lit_jax.from_towers(foreign.write(tmp_path / "flat", model, without=tuple(flat), **flat), text)
