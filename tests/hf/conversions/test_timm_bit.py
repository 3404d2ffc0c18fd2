"""Big Transfers of timm that are refused; test_timm.py compares the features."""

import pytest

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
    foreign.assert_refused("bit", {"model_args": {}} | change, said, tmp_path, text)


def test_tensors_that_a_bit_lacks_or_has_no_place_for_are_named(tmp_path, text):
    lost = ["stem.conv.weight", "stages.1.blocks.0.conv3.weight", "stages.2.blocks.0.norm2.bias"]
    tensors = lost, "stages.1.blocks.1.downsample.conv.weight", "stem.conv.weight"
    foreign.assert_kernels_checked("bit", "a BiT", tensors, tmp_path, text)
