"""ResNets of timm: files of torchvision, and what is refused; test_timm.py compares the features."""

import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.hf.processor import load_image_processor
from tests.hf.conversions import foreign

CHANGES = [
    *(
        (
            {"architecture": name},
            f"the architecture '{name}' of timm is not implemented; of its ResNets, resnet18, ",
        )
        for name in (
            "resnet50d",
            "seresnet50",
            "ecaresnet26t",
            "resnetblur50",
            "resnetv2_50",
            "wide_resnet50_2",
        )
    ),
    ({"model_args": {"output_stride": 8}}, "resnet50 with output_stride=8 is not implemented"),
    ({"model_args": {"act_layer": "silu"}}, "resnet50 with act_layer='silu' is not implemented"),
    ({"global_pool": "max"}, "resnet50 with the pooling 'max' is not implemented"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_a_resnet_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    foreign.assert_refused("resnet50", {"model_args": {}} | change, said, tmp_path, text)


def test_tensors_that_a_resnet_lacks_or_has_no_place_for_are_named(tmp_path, text):
    lost = ["conv1.weight", "layer2.0.conv3.weight", "layer3.0.bn2.running_var"]
    tensors = lost, "layer1.0.se.fc1.weight", "conv1.weight"
    foreign.assert_kernels_checked("resnet50", "a ResNet", tensors, tmp_path, text)


def test_a_file_of_torchvision_needs_only_a_name(tmp_path, text):
    """Old files lack the batch counts; a tower within a larger model is found."""
    model = foreign.stored("resnet18")
    counts = [name for name in model["shapes"] if name.endswith("num_batches_tracked")]
    _, want = lit_jax.from_towers(foreign.write(tmp_path / "timm", model), text)
    model["files"]["config.json"] = {
        "architecture": "resnet18",
        "pretrained_cfg": {"interpolation": "bilinear"},
    }
    folder = foreign.write(tmp_path / "torchvision", model, without=counts)
    _, got = lit_jax.from_towers(folder, text)
    jax.tree.map(np.testing.assert_array_equal, got["vision"], want["vision"])
    images = load_image_processor(folder)
    assert dict(images.size) == {"shortest_edge": 256} and images.resample == 2
    tensors = {
        f"backbone.{name}": foreign.drawn(name, tuple(shape)) for name, shape in model["shapes"].items()
    }
    inside = foreign.write(tmp_path / "inside", model, without=model["shapes"], **tensors)
    _, got = lit_jax.from_towers(inside, text)
    jax.tree.map(np.testing.assert_array_equal, got["vision"], want["vision"])


@pytest.mark.slow
def test_pictures_are_of_the_size_that_the_config_says(tmp_path, text):
    model = foreign.stored("resnet18")
    model["files"]["config.json"]["pretrained_cfg"]["input_size"] = [3, 160, 160]
    folder = foreign.write(tmp_path, model)
    module, _ = lit_jax.from_towers(folder, text)
    assert module.config.vision.image_size == 160 == load_image_processor(folder).crop_size["height"]
