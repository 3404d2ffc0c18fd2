"""ResNet against PyTorch in eval mode: basic layers and bottlenecks, with batch norms whose statistics stay."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import traverse_util

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.models.encoders import VISION
from lit_jax.models.encoders.base import matched
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity import test_convnext, test_poolings
from tests.parity import test_encoders as shared
from tests.parity.conftest import assert_same_layers, randomise
from tests.parity.towers import assert_rounding_alone, our_tower, pixels, run, torch_tower
from tests.tiny import RESNET

BASIC = RESNET | {"layer_type": "basic"}
TOWERS = {
    "bottlenecks": RESNET,
    "basic, the first stage without a shortcut": BASIC | {"hidden_sizes": [8, 12], "hidden_act": "gelu"},
    "strides in the first convolution, three stages": RESNET
    | {"hidden_sizes": [8, 8, 20], "depths": [1, 3, 1], "downsample_in_bottleneck": True},
    "half the size in the first stage": BASIC | {"downsample_in_first_stage": True, "depths": [1, 2]},
}
every_tower = pytest.mark.parametrize("hf", TOWERS.values(), ids=TOWERS)
ENCODER = VISION["resnet"]


@every_tower
def test_a_tower_equals_pytorch_at_every_stage(hf, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    test_convnext.compare(theirs, module, params, pixels(32))


@pytest.mark.sampled(5)
@every_tower
@pytest.mark.parametrize("size", [(24, 40), (43, 50), (1, 7)], ids=str)
def test_a_tower_equals_pytorch_at_other_sizes(hf, size, tmp_path):
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    test_convnext.compare(theirs, module, params, pixels(64)[:, : size[0], : size[1]])


def same_gradients(hf, folder):
    """The gradient of the pooled output at every leaf, which equals PyTorch's."""
    theirs = torch_tower(hf, folder)
    module, _, params = our_tower("vision", folder)
    images = pixels(32)
    output = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).pooler_output.flatten(1)
    weight = np.random.default_rng(3).normal(size=tuple(output.shape)).astype(np.float32)
    (output * torch.from_numpy(weight)).sum().backward()
    want = shared.torch_gradients(theirs, "vision", folder / "gradients")

    def loss(params):
        return (module.apply({"params": params}, jnp.asarray(images)).pooler_output * weight).sum()

    got = jax.jit(jax.grad(loss))(params)
    shared.assert_same_gradients(got, want)
    return got


@pytest.mark.sampled(2)
@every_tower
def test_the_gradient_of_every_leaf_equals_pytorch(hf, tmp_path):
    """The gradient of the statistics is zero."""
    got = same_gradients(hf, tmp_path)
    statistics = {path: leaf for path, leaf in flat(got).items() if "running_" in path}
    assert statistics and not any(np.any(leaf) for leaf in statistics.values())


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_training_changes_nothing_in_the_forward_pass(tmp_path):
    torch_tower(RESNET, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    calls = (jax.jit(partial(module.apply, train=train)) for train in (False, True))
    chex.assert_trees_all_equal(*(call({"params": params}, jnp.asarray(pixels(32))) for call in calls))


@every_tower
def test_weights_go_to_jax_and_back_to_the_same_bits(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, table, params = our_tower("vision", tmp_path)
    stored = dict(model_folder.Tensors.of(tmp_path))
    written = table.to_hf(params) | ENCODER.buffers(module.config, params)
    assert written.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
        assert written[name].dtype == tensor.dtype and written[name].shape == tensor.shape


def assert_read_without_head(whole, encoder, names, unused, folder):
    """Asserts that the tower in `whole` is read, whose file has tensors of these `names`, and none that is `unused`."""
    whole = randomise(whole)
    whole.save_pretrained(folder)
    stored = model_folder.Tensors.of(folder)
    assert names <= stored.keys()
    module, _, params = our_tower("vision", folder)
    test_convnext.compare(getattr(whole, whole.base_model_prefix), module, params, pixels(32))
    _, used = matched(stored, encoder, module.config)
    assert not any(re.search(unused, name) for name in used)


def test_a_classifier_is_read_without_its_head(tmp_path):
    config = transformers.AutoConfig.for_model(**RESNET, num_labels=5)
    whole = transformers.ResNetForImageClassification(config)
    names = {"classifier.1.weight", "resnet.embedder.embedder.normalization.num_batches_tracked"}
    assert_read_without_head(whole, ENCODER, names, "classifier|tracked", tmp_path)


def test_names_that_transformers_5_has_in_memory_are_understood(tmp_path):
    shared.test_names_that_transformers_5_has_in_memory_are_understood("vision", RESNET, tmp_path)


@pytest.mark.slow
@every_tower
def test_remat_and_unrolling_and_bfloat16_change_nothing_but_rounding(hf, tmp_path):
    torch_tower(hf, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    assert_rounding_alone(module, params, {"images": pixels(32)})


@pytest.mark.parametrize("remat", ["products", "narrow"])
def test_a_backward_pass_that_recomputes_has_the_same_gradient(remat, tmp_path):
    torch_tower(RESNET, tmp_path)
    module, _, params = our_tower("vision", tmp_path)
    images = jnp.asarray(pixels(32))

    def gradient(module):
        return jax.jit(jax.grad(lambda p: module.apply({"params": p}, images).pooler_output.sum()))(params)

    other = module.clone(compute=module.compute.__class__(remat=remat))
    shared.assert_same_gradients(gradient(other), gradient(module))


def assert_drawn_as_in_transformers(encoder, hf):
    """Asserts that fresh kernels have the mean and deviation of those in transformers, and that the rest is equal."""
    torch.manual_seed(0)
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**hf))
    config = encoder.Config.from_hf(hf)
    ours = encoder.Model(config).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    tensors = encoder.weights(config).to_hf(jax.tree.map(np.asarray, ours))
    for name, tensor in theirs.state_dict().items():
        if tensor.ndim == 4:
            got, want = tensors[name], tensor.numpy()
            assert abs(got.mean()) < 0.1 * want.std() and abs(got.std() / want.std() - 1) < 0.1, name
        elif not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensors[name], tensor.numpy(), err_msg=name)


def test_fresh_weights_are_drawn_as_in_transformers():
    assert_drawn_as_in_transformers(ENCODER, RESNET | {"hidden_sizes": [64, 128], "embedding_size": 64})


def assert_written_for_transformers(theirs, module, params, folder):
    """Writes a dual encoder with the tower that is stored in `folder`/v; its image tower is `theirs` once more."""
    images = pixels(module.config.vision.image_size)
    output = module.apply({"params": params}, jnp.asarray(images), method="image_features")[1]
    lit_jax.save(folder / "out", module, params, layout="towers")
    again, info = transformers.AutoModel.from_pretrained(folder / "out" / "vision", output_loading_info=True)
    assert not any(info.values()), info
    for model in (theirs, again.eval()):
        with torch.no_grad():
            want = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).pooler_output.flatten(1)
        assert_same_layers({"pooled": output.pooler_output}, {"pooled": want})
    files = [folder / model_folder.WEIGHTS for folder in (folder / "v", folder / "out" / "vision")]
    stored, written = (safetensors.torch.load_file(file) for file in files)
    assert stored.keys() == written.keys() and all(
        torch.equal(stored[name], written[name]) for name in stored
    )
    lit_jax.save(folder / "own", module, params, layout="lit_jax")
    loaded, same = lit_jax.load(folder / "own")
    assert loaded.config == module.config
    chex.assert_trees_all_equal(same, params)
    name = module.config.vision_type
    with pytest.raises(WeightError, match=f"a vision tower of type '{name}' has no place in transformers'"):
        lit_jax.save(folder / "hf", module, params)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("image_size", [64, (24, 40)], ids=str)
def test_a_dual_encoder_for_pictures_of_another_size_is_written_as_towers_that_transformers_reads(
    image_size, tmp_path
):
    theirs = torch_tower(RESNET, tmp_path / "v")
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", image_size=image_size)
    assert module.config.vision.image_size == image_size
    assert_written_for_transformers(theirs, module, params, tmp_path)


def assert_same_poolings(encoder, hf, folder):
    """Asserts that every pooling of tokens but those of a CLS token equals PyTorch."""
    theirs = torch_tower(hf, folder)
    module, _, params = our_tower("vision", folder)
    config, images = module.config, pixels((40, 64))
    want = test_convnext.tokens(
        theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).last_hidden_state
    )
    x = run(module, params, {"images": images}).last_hidden_state
    names = encoder.poolings_of_tokens(config)
    assert encoder.pooling_names(config) == ["pooler", *names] == ["pooler", "mean", "last", "max"]
    test_poolings.assert_all(x, want, np.ones(x.shape[:2], np.int32), 0, names)
    with pytest.raises(ConfigError, match="vision_pooling is 'cls'; wanted one of pooler, mean, last, max"):
        encoder.pooled(config, "cls")


def test_every_pooling_of_tokens_but_those_of_a_cls_token_equals_pytorch(tmp_path):
    assert_same_poolings(ENCODER, RESNET, tmp_path)


def test_pictures_with_another_number_of_channels_are_refused():
    module = ENCODER.Model(ENCODER.Config.from_hf(RESNET))
    with pytest.raises(ConfigError, match="images have 4 channels; this tower takes 3"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [1]}, "hidden_sizes counts 2 stages and depths 1"),
        ({"depths": [900, 900]}, "depths=.900, 900. is not usable; wanted at most 1000 layers"),
        ({"layer_type": "wide"}, "layer_type='wide' is not usable; wanted basic or bottleneck"),
        ({"hidden_sizes": [3, 8]}, "hidden_sizes=.3, 8. is not usable; wanted 4 or more"),
        ({"hidden_act": "mish"}, "hidden_act='mish' is not usable; wanted one of"),
    ],
)
def test_a_config_that_is_not_usable_is_refused_by_name(fields, message):
    with pytest.raises(WeightError, match=f"resnet config: {message}"):
        ENCODER.Config.from_hf(RESNET | fields)
