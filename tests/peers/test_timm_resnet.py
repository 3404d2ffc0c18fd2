"""A ResNet of timm gives its features, or is refused by name."""

import jax
import numpy as np
import torch

from lit_jax.hf.conversions.renames import converted
from lit_jax.hf.conversions.timm import tower
from lit_jax.models.encoders import VISION
from tests.hf.conversions import foreign
from tests.peers.timm_models import (
    OF_A_RESNET,
    channels_first,
    filled,
    made,
    ours,
    timm,
)


def test_no_resnet_of_timm_is_mistaken_for_another(tmp_path):
    """A name that is accepted gives the features of timm."""
    taken = []
    for name in timm.list_models("*resnet*", exclude_filters="*_bit"):
        model, tensors = made(name)
        if ours(name, model, tensors, tmp_path) is None:
            continue
        taken.append(name)
        model = timm.create_model(name, num_classes=0, **OF_A_RESNET)
        filled(model)
        stored = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        part = tower(tmp_path, name, OF_A_RESNET, stored)
        assert part.config["depths"] == OF_A_RESNET["layers"]
        encoder = VISION[part.config["model_type"]]
        config = encoder.config_of(part.config)
        tensors = dict(converted(tmp_path, stored, part.rows, made=part.made, dropped=part.dropped))
        images = foreign.images(64)
        module = encoder.Model(config)
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
        params = encoder.weights(config).to_jax(tensors, shapes)
        got = jax.jit(module.apply)({"params": params}, images).pooler_output
        with torch.no_grad():
            want = model(channels_first(images)).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=name)
    assert taken == [f"resnet{number}" for number in (18, 26, 34, 50, 101, 152, 200)]
