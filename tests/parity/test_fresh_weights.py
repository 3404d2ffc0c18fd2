"""Weights that a checkpoint lacks: each missing module starts fresh by itself, and what is there is used."""

import json
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.hf.towers import read_params, read_tower
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity.conftest import randomise
from tests.parity.towers import pixels

WHOLE = """clip_vision_model siglip_vision_model dinov3_vit swin swinv2 clip_text_model siglip_text_model
clipseg_vision_model metaclip_2_text_model chinese_clip_text_model qwen2 qwen3 llama mistral
eurobert gemma gemma2 gemma3_text t5 mt5 umt5
nomic_bert chinese_clip_vision_model mlcd_vision_model aimv2_vision_model vit_msn vit_mae ijepa convnext
convnextv2 dinov3_convnext resnet bit gte siglip2_vision_model tipsv2_text_model eva02 perception_encoder
vitamin clip_resnet coca_vision coca_text bart mbart m2m_100 marian dpr
fastvit mobileclip_vit mobileclip_text""".split()
MORE = {"use_mask_token": True, "pooling": "tanh"}  # Fields that give a type more weights of this kind.


def configs():
    for tower, table in (("vision", VISION), ("text", TEXT)):
        for name, encoder in table.items():
            known = encoder.Config.__dataclass_fields__
            yield tower, tiny.TOWERS[name] | {field: value for field, value in MORE.items() if field in known}


def groups_of(encoder, hf):
    """Module -> its paths, for the modules that a checkpoint can lack."""
    groups = {}
    for row in encoder.weights(encoder.config_of(hf)).rows:
        if row not in encoder.weights(encoder.config_of(hf)).without(encoder.fresh).rows:
            groups.setdefault(row.jax.split("/")[0], []).append(row.jax)
    return groups


def read(folder, tower, hf, without):
    """The params and missing paths of a checkpoint of zeros that lacks the paths of a regex, and the shapes of all."""
    encoder = encoder_of(tower, hf["model_type"])
    config = encoder.config_of(hf)
    text = tower == "text"
    example = (
        jnp.zeros((1, 1), jnp.int32) if text else jnp.zeros((1, config.image_size, config.image_size, 3))
    )
    shapes = jax.eval_shape(encoder.Model(config).init, jax.random.key(0), example)["params"]
    table = encoder.weights(config)
    tensors = table.to_hf(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    kept = table.without(without).names()
    model_folder.write(folder, hf, {name: tensor for name, tensor in tensors.items() if name in kept})
    described, _ = read_tower(tower, str(folder))
    params, missing = read_params(described, shapes, False)
    return params, missing, shapes


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("tower", "hf"), list(configs()), ids=[hf["model_type"] for _, hf in configs()])
def test_each_module_that_a_checkpoint_lacks_is_fresh_by_itself(tower, hf, tmp_path):
    groups = groups_of(encoder_of(tower, hf["model_type"]), hf)
    assert bool(groups) == (hf["model_type"] not in WHOLE)
    for count in range(len(groups) + 1):
        for lacking in combinations(groups, count):
            without = "|".join(f"{name}(/|$)" for name in lacking) or r"(?!)"
            params, missing, shapes = read(tmp_path, tower, hf, without)
            assert sorted(missing) == sorted(path for name in lacking for path in groups[name])
            assert params.keys() == shapes.keys() - set(lacking)
    for paths in groups.values():
        if len(paths) > 1:  # Half a module is an error.
            with pytest.raises(WeightError, match="missing from the checkpoint"):
                read(tmp_path, tower, hf, paths[0])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "cls"])
def test_the_pretraining_checkpoint_of_beit_gives_the_tower_that_pytorch_gives(mean, tmp_path):
    hf = tiny.BEIT | {"use_mask_token": True, "use_mean_pooling": mean, "vocab_size": 50}
    whole = randomise(transformers.BeitForMaskedImageModeling(transformers.BeitConfig(**hf)), 0)
    whole.save_pretrained(tmp_path / "v")
    assert json.loads((tmp_path / "v" / "config.json").read_text())["use_mask_token"]
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    images = pixels(32)
    with torch.no_grad():
        want = whole.beit(torch.from_numpy(images.transpose(0, 3, 1, 2))).last_hidden_state
        # The norm of the head is not that of the pooler, which starts at ones and zeros.
        normed = torch.nn.functional.layer_norm(want[:, 1:].mean(1), want.shape[2:], eps=1e-12)
        pooled = normed if mean else want[:, 0]
    got = module.apply({"params": params}, jnp.asarray(images), method="image_features")[1]
    np.testing.assert_allclose(got.last_hidden_state, want, rtol=0, atol=2e-5)
    np.testing.assert_allclose(got.pooler_output, pooled, rtol=0, atol=2e-5)
