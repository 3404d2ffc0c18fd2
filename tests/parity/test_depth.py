"""A tower that is cut after an inner layer equals PyTorch's tower of that depth, and is saved as one."""

import jax
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf.join import join_towers
from lit_jax.hf.towers import read_tower
from lit_jax.models.depth import cut, depth_field
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.test_poolings import PICTURES, WORDS
from tests.parity.towers import in_order, in_torch, pixels, run, texts, torch_tower

TYPES = {name: hf for name, (hf, _) in PICTURES.items()} | WORDS


def smaller(theirs, hf):
    """PyTorch's tower of the config `hf`, with the weights that it shares with a deeper one."""
    config = type(theirs.config).from_dict(hf)
    model = in_order(type(theirs)._from_config(config, attn_implementation="eager").eval())
    own = model.state_dict()
    shared = {name: tensor for name, tensor in theirs.state_dict().items() if name in own}
    # ESM has a head with a weight for every layer.
    model.load_state_dict({k: v for k, v in shared.items() if v.shape == own[k].shape}, strict=False)
    return model


@pytest.mark.sampled(19)
@pytest.mark.parametrize("depth", [2, 1])
@pytest.mark.parametrize("name", [name for name in TYPES if "swin" not in name])
def test_a_cut_tower_equals_the_tower_of_that_depth_in_pytorch(name, depth, tmp_path):
    hf = TYPES[name]
    tower = "vision" if "image_size" in hf else "text"
    theirs = torch_tower(hf, tmp_path / tower)
    other = {"vision": tiny.VIT, "text": tiny.BERT} | {tower: None}
    for of, config in other.items():
        if config:
            tiny.write_tower(tmp_path / of, config)
    field = depth_field((VISION | TEXT)[hf["model_type"]].Config)
    model = ModelConfig(
        str(tmp_path / "vision"),
        str(tmp_path / "text"),
        lock_towers="LL",
        **{f"{tower}_config": {field: depth}, f"{tower}_pooling": "mean"},
    )
    loaded = join_towers(model)
    small = smaller(theirs, cut(hf, field, depth))
    config, params = getattr(loaded.module.config, tower), loaded.params[tower]
    module = (VISION | TEXT)[hf["model_type"]].Model(config)
    if tower == "vision":
        images = pixels(hf["image_size"])
        got = run(module, params, {"images": images})
        want = small(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        ours, right = got.last_hidden_state, want.last_hidden_state
    else:
        batch = texts(pad=hf.get("pad_token_id", 0))
        if not getattr(config, "type_vocab_size", 0):
            del batch["token_type_ids"]
        real = batch["attention_mask"].astype(bool)
        ours = run(module, params, batch).last_hidden_state[real]
        right = small(**in_torch(batch)).last_hidden_state[torch.from_numpy(real)]
    assert_same_layers({"last": ours}, {"last": right})
    if depth == 2:  # What is saved is a tower of that depth, with nothing left of the others.
        lit_jax.save(tmp_path / "out", loaded.module, loaded.params, layout="lit_jax")
        again, same = lit_jax.load(tmp_path / "out")
        assert again.config == loaded.module.config
        jax.tree.map(np.testing.assert_array_equal, same, jax.tree.map(np.asarray, loaded.params))


@pytest.mark.parametrize("depth", [4, 0, -1, "2", True])
def test_a_depth_that_is_too_large_or_not_a_positive_integer_is_refused(depth, tmp_path):
    tiny.write_towers(tmp_path)
    model = ModelConfig(str(tmp_path / "v"), str(tmp_path / "t"), text_config={"num_hidden_layers": depth})
    with pytest.raises(WeightError, match=r"missing from the checkpoint: encoder.layer.3|num_hidden_layers="):
        join_towers(model)


def test_a_depth_can_be_combined_with_other_fields_and_a_picture_size(tmp_path):
    tiny.write_towers(tmp_path)
    numbers = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.3}
    model = ModelConfig(str(tmp_path / "v"), str(tmp_path / "t"), vision_config=numbers, image_size=48)
    config = join_towers(model).module.config.vision
    assert (config.num_hidden_layers, config.hidden_dropout_prob, config.image_size) == (2, 0.3, 48)
    described, _ = read_tower("vision", model.vision, overrides=numbers)
    assert described.whole.num_hidden_layers == 3 and described.whole.hidden_dropout_prob == 0.3


def test_a_stray_tensor_beside_the_layers_that_are_cut_off_is_still_an_error(tmp_path):
    from safetensors.numpy import load_file, save_file

    tiny.write_towers(tmp_path)
    path = tmp_path / "t" / "model.safetensors"
    save_file(load_file(path) | {"encoder.layer.7.adapter.weight": np.zeros(3, np.float32)}, path)
    model = ModelConfig(str(tmp_path / "v"), str(tmp_path / "t"), text_config={"num_hidden_layers": 1})
    with pytest.raises(WeightError, match=r"not in the table: encoder\.layer\.7\.adapter\.weight"):
        join_towers(model)
