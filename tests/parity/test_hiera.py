"""Hiera against PyTorch: mask units, pooled queries, stages of several widths, tokens that are not in rows."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
import torch

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.encoders import VISION
from lit_jax.models.image_size import with_image_size
from lit_jax.train.adapters import with_adapters
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers, randomise
from tests.parity.towers import (
    assert_branches_left_out_in_training,
    assert_rounding_alone,
    assert_trained_as_locked,
    layers,
    our_tower,
    pixels,
    torch_tower,
)
from tests.tiny import HIERA

ENCODER = VISION["hiera"]
FOUR = {
    "depths": [1, 2, 1, 2],
    "num_heads": [1, 1, 2, 4],
    "num_query_pool": 3,
    "masked_unit_size": [8, 8],
    "masked_unit_attention": [True, True, False, False],
    "image_size": [64, 64],
}
TOWERS = {
    "three stages": HIERA,
    "four stages, of one layer": HIERA | FOUR | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    "a last stage without pooling": HIERA | {"num_query_pool": 1, "masked_unit_attention": [False] * 3},
    "mask units everywhere, larger than what becomes one token": HIERA
    | {
        "masked_unit_size": [8, 4],
        "masked_unit_attention": [True] * 3,
        "embed_dim_multiplier": 1.5,
        "num_heads": [1, 2, 3],
    },
    "rectangles": HIERA
    | {
        "image_size": [32, 36],
        "patch_size": [5, 3],
        "patch_stride": [4, 2],
        "patch_padding": [2, 1],
        "query_stride": [2, 3],
        "masked_unit_size": [4, 9],
    },
    "no pooling": HIERA | {"num_query_pool": 0, "embed_dim_multiplier": 1.0, "num_heads": [1, 2, 4]},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)


def in_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@every_tower
def test_a_tower_equals_pytorch_at_every_stage(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(hf["image_size"])
    want = theirs(in_torch(images), output_hidden_states=True, output_attentions=True)
    run = jax.jit(partial(module.apply, hidden_states=True, attentions=True))
    assert_same_layers(layers(run({"params": params}, jnp.asarray(images))), layers(want))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["three stages", "four stages, of one layer", "no pooling"])
@pytest.mark.parametrize("size", [(32, 64), (96, 64)], ids=str)
def test_a_tower_equals_pytorch_at_other_sizes(name, size, tmp_path):
    theirs = torch_tower(TOWERS[name], tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = pixels(size)
    want = theirs(in_torch(images), interpolate_pos_encoding=True)
    got = jax.jit(partial(module.apply, interpolate=True))({"params": params}, jnp.asarray(images))
    assert_same_layers(
        {"last": got.last_hidden_state, "pooled": got.pooler_output},
        {"last": want.last_hidden_state, "pooled": want.pooler_output},
    )


@pytest.mark.sampled(2)
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    shared.test_the_gradient_of_every_leaf_equals_pytorch("vision", hf, tmp_path)


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    shared.test_weights_go_to_jax_and_back_to_the_same_bits("vision", hf, tmp_path)


@pytest.mark.sampled(3)
@every_tower
def test_names_that_transformers_5_has_in_memory_are_understood(hf, tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("vision", hf, tmp_path)


@pytest.mark.slow
@every_tower
def test_remat_and_unrolling_and_bfloat16_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    assert_rounding_alone(module, params, {"images": pixels(hf["image_size"])})


@pytest.mark.parametrize("kind", ["HieraForImageClassification", "HieraForPreTraining"])
def test_the_tower_of_a_model_with_a_head_is_read_without_its_head(kind, tmp_path):
    """That of the pretraining has no last norm, which starts fresh; in transformers its bias starts above zero."""
    config = transformers.HieraConfig(
        **HIERA, num_labels=5, decoder_depth=1, decoder_hidden_size=16, decoder_num_heads=2
    )
    whole = randomise(getattr(transformers, kind)(config))
    whole.save_pretrained(tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    images = pixels(32)
    theirs = transformers.HieraModel(config)
    theirs.pooler.layernorm.bias.data.zero_()
    theirs.load_state_dict(whole.hiera.state_dict(), strict=False)
    want = theirs.eval()(in_torch(images))
    got = module.apply({"params": params}, jnp.asarray(images), method="image_features")[1]
    assert_same_layers(
        {"last": got.last_hidden_state, "pooled": got.pooler_output},
        {"last": want.last_hidden_state, "pooled": want.pooler_output},
    )


def test_stochastic_depth_leaves_out_branches_of_some_pictures_in_training_alone(tmp_path):
    assert_branches_left_out_in_training(HIERA | {"drop_path_rate": 0.9}, tmp_path)


@pytest.mark.parametrize("lock", ["UU", "LU"])
def test_a_tower_is_trained_as_its_letter_says(lock, tmp_path):
    assert_trained_as_locked(lock, tmp_path, HIERA)


def test_adapters_suit_every_layer():
    shapes = dual_encoder.param_shapes(DualEncoder(tiny.dual_config(vision=HIERA)))
    model = ModelConfig("", "", lock_towers="AU", lora_targets=(r".*/(attn|mlp)/\w+/kernel",))
    found = with_adapters(shapes, model)["vision"]["adapters"]
    for stage in ("stage0", "stage1", "stage2"):
        first, others = (found[stage][name]["attn"]["query"]["a"]["kernel"] for name in ("first", "layers"))
        assert others.shape[2:] == first.shape[1:] and others.ndim == first.ndim + 1


def test_a_tower_for_pictures_of_another_size_equals_interpolation_in_pytorch(tmp_path):
    theirs = torch_tower(HIERA, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=48, projection_dim=16)
    images = pixels(48)
    want = theirs(in_torch(images), interpolate_pos_encoding=True)
    lit_jax.save(tmp_path / "out", module, params, layout="towers")
    again = transformers.AutoModel.from_pretrained(tmp_path / "out" / "vision").eval()
    assert again.config.image_size == [48, 48] and again.config.patch_size == [7, 7]
    got = module.apply({"params": params}, jnp.asarray(images), method="image_features")[1]
    for model in (want, again(in_torch(images))):
        assert_same_layers({"pooled": got.pooler_output}, {"pooled": model.pooler_output})
    lit_jax.save(tmp_path / "own", module, params, layout="lit_jax")
    loaded, same = lit_jax.load(tmp_path / "own")
    assert loaded.config == module.config
    chex.assert_trees_all_equal(same, params)


def test_pictures_that_do_not_fit_are_refused():
    config = ENCODER.Config.from_hf(HIERA)
    cases = {
        (32, 32, 4): "images have 4 channels; this tower takes 3",
        (24, 32, 3): "images are 24x32; this tower takes multiples of 16x16",
    }
    for shape, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(
                partial(ENCODER.Model(config).init, interpolate=True),
                jax.random.key(0),
                jnp.zeros((1, *shape)),
            )
    with pytest.raises(ConfigError, match="images are 48x48; this tower takes 32x32 unless"):
        jax.eval_shape(ENCODER.Model(config).init, jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    large = ENCODER.Config.from_hf(TOWERS["mask units everywhere, larger than what becomes one token"])
    with pytest.raises(ConfigError, match="images give 16 tokens, which are not units of 32; use larger"):
        jax.eval_shape(
            partial(ENCODER.Model(large).init, interpolate=True), jax.random.key(0), jnp.zeros((1, 16, 16, 3))
        )
    with pytest.raises(
        ConfigError, match="image_size is 40; wanted a multiple of 16, as much as becomes one"
    ):
        with_image_size("hiera", config, 40)


REFUSED = [
    ({"num_heads": [1, 2]}, r"num_heads=\(1, 2\) is not usable; wanted one for each of the 3 stages"),
    ({"num_heads": [1, 3, 4]}, r"num_heads=\(1, 3, 4\) is not usable; wanted divisors of the widths"),
    ({"masked_unit_attention": [True]}, "masked_unit_attention=.* is not usable; wanted one for each"),
    ({"num_query_pool": 3}, "num_query_pool=3 is not usable; wanted less than 3"),
    ({"embed_dim_multiplier": 1.0}, "embed_dim_multiplier=1.0 is not usable; wanted one that makes"),
    ({"masked_unit_size": [2, 4]}, r"masked_unit_size=\(2, 4\) is not usable; wanted multiples of"),
    ({"patch_padding": [0, 0]}, "patch_padding=0 is not usable; wanted one that gives as many patches"),
    ({"image_size": [32, 40]}, r"image_size=\(32, 40\) is not usable; wanted multiples of 16x16"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_a_config_that_is_not_usable_is_refused_by_name_and_transformers_computes_nothing_with_it(
    fields, message
):
    with pytest.raises(WeightError, match=f"hiera config: {message}"):
        ENCODER.Config.from_hf(HIERA | fields)
    with pytest.raises(Exception):  # noqa: B017 (of many kinds)
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**HIERA | fields))
        model(torch.zeros(1, 3, *(HIERA | fields)["image_size"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [900, 900, 1]}, "depths=.* is not usable; wanted at most 1000 layers"),
        ({"embed_dim": 10**6, "embed_dim_multiplier": 99.0}, "embed_dim_multiplier=99.0 is not usable"),
        ({"hidden_size": 64}, "hidden_size=64 is not implemented; 32 is"),
        ({"patch_size": [7, 7, 7]}, "patch_size=.* is not usable; wanted a sensible int .* or two of them"),
    ],
    ids=str,
)
def test_a_config_of_no_sense_is_refused_by_name(fields, message):
    with pytest.raises(WeightError, match=f"hiera config: {message}"):
        ENCODER.Config.from_hf(HIERA | fields)
