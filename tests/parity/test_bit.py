"""Big Transfer against PyTorch: standardised kernels, group norms, both types of layers and every padding."""

import jax
import jax.numpy as jnp
import pytest
import torch

import lit_jax
from lit_jax.models.encoders import VISION
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity import test_convnext, test_resnet
from tests.parity import test_encoders as shared
from tests.parity.towers import (
    assert_branches_left_out_in_training,
    assert_rounding_alone,
    assert_trained_as_locked,
    our_tower,
    pixels,
    torch_tower,
)
from tests.tiny import BIT

BOTTLENECK = BIT | {"layer_type": "bottleneck"}
DEEP = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 2]}
TOWERS = {
    "norms first": BIT,
    "norms first, SAME padding, zeros around the pooling": BIT
    | {"global_padding": "same", "embedding_dynamic_padding": True, "hidden_act": "gelu"},
    "norms first, four stages, strides up to 8": BIT | DEEP | {"output_stride": 8},
    "bottlenecks": BOTTLENECK,
    "wider bottlenecks, SAME padding": BOTTLENECK | {"global_padding": "SAME", "width_factor": 3},
    "bottlenecks, four stages, dilated, zeros around the pooling": BOTTLENECK
    | DEEP
    | {"output_stride": 8, "embedding_dynamic_padding": True, "hidden_sizes": [20, 44, 16, 16]},
    "bottlenecks, dilated, SAME padding": BOTTLENECK
    | DEEP
    | {"output_stride": 4, "global_padding": "SAME", "embedding_dynamic_padding": True},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
ENCODER = VISION["bit"]


@every_tower
def test_a_tower_equals_pytorch_at_every_stage(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    test_convnext.compare(theirs, module, params, pixels(32))


@pytest.mark.sampled(5)
@every_tower
@pytest.mark.parametrize("size", [(24, 40), (43, 50), (13, 9)], ids=str)
def test_a_tower_equals_pytorch_at_other_sizes(hf, size, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    test_convnext.compare(theirs, module, params, pixels(64)[:, : size[0], : size[1]])


@pytest.mark.sampled(2)
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    test_resnet.same_gradients(hf, tmp_path)


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("vision", hf, tmp_path)


def test_names_that_transformers_5_has_in_memory_are_understood(tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("vision", BIT, tmp_path)


@pytest.mark.slow
@every_tower
def test_remat_and_unrolling_and_bfloat16_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    assert_rounding_alone(module, params, {"images": pixels(32)})


def test_a_classifier_is_read_without_its_head(tmp_path):
    config = transformers.AutoConfig.for_model(**BIT, num_labels=5)
    whole = transformers.BitForImageClassification(config)
    names = {"classifier.1.weight", "bit.embedder.convolution.weight"}
    test_resnet.assert_read_without_head(whole, ENCODER, names, "classifier", tmp_path)


def test_fresh_weights_are_drawn_as_in_transformers():
    hf = BOTTLENECK | {"hidden_sizes": [256, 512], "embedding_size": 64}
    test_resnet.assert_drawn_as_in_transformers(ENCODER, hf)


@pytest.mark.parametrize("hf", [BIT, BOTTLENECK], ids=["norms first", "bottlenecks"])
def test_stochastic_depth_leaves_out_branches_of_some_pictures_in_training_alone(hf, tmp_path):
    assert_branches_left_out_in_training(hf | {"drop_path_rate": 0.9}, tmp_path)


@pytest.mark.parametrize("lock", ["UU", "LU"])
def test_a_tower_is_trained_as_its_letter_says(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, BIT)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("image_size", [64, (24, 40)], ids=str)
def test_a_dual_encoder_is_written_as_towers_that_transformers_reads(image_size, tmp_path):
    theirs = torch_tower(BIT, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=image_size)
    test_resnet.assert_written_for_transformers(theirs, module, params, tmp_path)


def test_every_pooling_of_tokens_but_those_of_a_cls_token_equals_pytorch(tmp_path):
    test_resnet.assert_same_poolings(ENCODER, BIT, tmp_path)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({}, (32, 32, 4), "images have 4 channels; this tower takes 3"),
        ({"global_padding": "SAME"}, (4, 32, 3), "images are 4x32; this tower takes 5x5 or larger"),
    ],
    ids=["channels", "too small"],
)
def test_pictures_that_do_not_fit_are_refused(fields, shape, message):
    module = ENCODER.Model(ENCODER.Config.from_hf(BIT | fields))
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [1]}, "hidden_sizes counts 2 stages and depths 1"),
        ({"layer_type": "basic"}, "layer_type='basic' is not usable; wanted preactivation or bottleneck"),
        ({"global_padding": "VALID"}, "global_padding='VALID' is not usable; wanted null or 'SAME'"),
        ({"global_padding": "reflect"}, "global_padding='REFLECT' is not usable"),
        ({"num_groups": 5}, "num_groups=5 is not usable; wanted a divisor of all widths, among them 8"),
        ({"num_groups": 16}, "num_groups=16 is not usable; .* among them 8"),
        (
            {"width_factor": 2},
            "hidden_sizes=.16, 24. is not usable; wanted a last one that width_factor=2 and",
        ),
        ({"hidden_sizes": [16, 20]}, "hidden_sizes=.16, 20. is not usable"),
        ({"output_stride": 0}, "output_stride=0 is not usable"),
        ({"width_factor": 1000}, "width_factor=1000 is not usable; wanted a sensible int of 1 to 64"),
    ],
    ids=str,
)
def test_a_config_that_is_not_usable_is_refused_by_name(fields, message):
    with pytest.raises(WeightError, match=f"bit config: {message}"):
        ENCODER.Config.from_hf(BIT | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"global_padding": "VALID"},
        {"num_groups": 5},
        {"num_groups": 16},
        {"width_factor": 2},
        {"hidden_sizes": [16, 20]},
    ],
    ids=str,
)
def test_transformers_computes_nothing_with_a_config_that_is_refused(fields):
    with pytest.raises((RuntimeError, ValueError)):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**BIT | fields))
        model(torch.zeros(1, 3, 64, 64))
