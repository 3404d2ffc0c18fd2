"""A Big Transfer of timm gives its features, and no other ResNet of the second version is taken for one."""

import jax
import numpy as np
import pytest
import torch

from lit_jax.hf.conversions.renames import converted
from lit_jax.hf.conversions.timm import tower
from lit_jax.models.encoders import VISION
from tests.hf.conversions import foreign
from tests.peers.timm_models import OF_A_BIT, channels_first, filled, made, ours, timm

resnetv2 = pytest.importorskip("timm.models.resnetv2")

NAMES = [f"resnetv2_{size}_bit" for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")]


@pytest.mark.parametrize("name", NAMES)
def test_a_bit_of_timm_gives_its_features(name, tmp_path, monkeypatch):
    make = resnetv2._create_resnetv2_bit  # The only place where its layers can be changed.
    monkeypatch.setattr(resnetv2, make.__name__, lambda *args, **options: make(*args, **options | OF_A_BIT))
    model = filled(timm.create_model(name, num_classes=0))
    stored = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    part = tower(tmp_path, name, {}, stored)
    encoder = VISION[part.config["model_type"]]
    config = encoder.config_of(part.config)
    tensors = dict(converted(tmp_path, stored, part.rows, made=part.made, dropped=part.dropped))
    module, images = encoder.Model(config), foreign.images(64)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    params = encoder.weights(config).to_jax(tensors, shapes)
    got = jax.jit(module.apply)({"params": params}, images).pooler_output
    with torch.no_grad():
        want = model(channels_first(images)).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_only_the_six_bits_of_timm_are_read_among_its_resnets_of_the_second_version(tmp_path):
    taken = {}
    for name in timm.list_models("resnetv2_*"):
        model, tensors = made(name)
        if (config := ours(name, model, tensors, tmp_path)) is not None:
            taken[name] = config
            shapes = {key: tensor.shape for key, tensor in tensors.items()}
            encoder = VISION["bit"]
            whole = encoder.config_of(config)
            assert whole.hidden_size == model.num_features
            assert [len(stage.blocks) for stage in model.stages] == list(whole.depths)
            assert shapes["stages.0.blocks.0.conv2.weight"][0] == whole.norms(0)[1]
    assert sorted(taken) == sorted(NAMES)
