"""FastViTs of timm and the ViT of MobileCLIP give timm's hidden states, features and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import traverse_util

import lit_jax
from lit_jax.hf.processor import load_image_processor
from lit_jax.models.encoders import VISION, fastvit, fastvit_config, mobileclip_vit
from tests.hf.conversions import foreign
from tests.parity.conftest import assert_same_layers
from tests.parity.test_sentence_transformers import pictures
from tests.parity.towers import assert_same_gradients
from tests.peers.test_timm_eva import in_a_folder
from tests.peers.timm_models import (
    OF_A_FASTVIT,
    OF_A_FASTVIT_OF_FIVE,
    channels_first,
    filled,
    ours,
    timm,
)

FASTVITS, VIT = timm.list_models("fastvit*"), "vit_base_mci_224"
MERGED = [("fastvit_sa12", True), ("fastvit_mci2", True), ("fastvit_mci3", True)]
TOWERS = [(name, False) for name in (*FASTVITS, VIT)] + MERGED
every_tower = pytest.mark.parametrize(("architecture", "merged"), TOWERS)


def sizes_of(architecture, merged):
    if architecture == VIT:  # The width of its stem cannot be changed.
        return {"depth": 2, "img_size": 32, "num_classes": 3}
    five = architecture in ("fastvit_mci3", "fastvit_mci4")
    sizes = OF_A_FASTVIT_OF_FIVE if five else OF_A_FASTVIT
    return sizes | {"num_classes": 3} | ({"inference_mode": True} if merged else {})


def opened(architecture, merged, folder):
    """timm's model with random weights, ours, and its params."""
    sizes = sizes_of(architecture, merged)
    model = filled(timm.create_model(architecture, **sizes))
    folders = in_a_folder(model, folder, sizes)
    return model, *lit_jax.from_towers(*folders), folders


def in_squares(side):
    """Pictures of 16 colours each, since means over many pixels make pictures of noise all alike."""
    return jnp.repeat(jnp.repeat(foreign.images(4), side // 4, 1), side // 4, 2)


def layers_of(model, images):
    """The outputs of timm's stages or blocks, its last hidden state and its features."""
    tokens, options = isinstance(model, timm.models.VisionTransformer), {}
    if tokens:
        options = {"output_fmt": "NLC", "return_prefix_tokens": True}
    states = model.forward_intermediates(channels_first(images), intermediates_only=True, **options)
    states = [torch.cat(state[::-1], 1) if tokens else state.flatten(2).mT for state in states]
    last = model.forward_features(channels_first(images))
    pooled = model.forward_head(last, pre_logits=True)
    found = {f"layer {i}": state for i, state in enumerate(states)}
    return found | {"last": last if tokens else last.flatten(2).mT, "pooled": pooled}


def test_every_fastvit_is_compared():
    assert len(FASTVITS) == 12


@every_tower
def test_a_tower_equals_timm_s_at_every_layer_and_in_every_gradient(architecture, merged, tmp_path):
    model, module, params, folders = opened(architecture, merged, tmp_path)
    images = in_squares(32 if architecture == VIT else 64)
    want = layers_of(model, images)
    assert want["pooled"].std(0).mean() > 1e-4  # The pictures differ by ten times the tolerance or more.
    got = module.bind({"params": params}).vision(images, hidden_states=True)
    states = {f"layer {i}": state for i, state in enumerate(got.hidden_states[1:])}
    assert_same_layers(states | {"last": got.last_hidden_state, "pooled": got.pooler_output}, want)

    weight = np.random.default_rng(3).normal(size=want["pooled"].shape).astype(np.float32)
    (want["pooled"] * torch.from_numpy(weight)).sum().backward()
    names = dict(model.named_parameters())
    gradients = {
        name: torch.zeros_like(tensor)
        if (leaf := names.get(name)) is None or leaf.grad is None
        else leaf.grad
        for name, tensor in model.state_dict().items()
    }
    safetensors.torch.save_file(gradients, tmp_path / "v" / "model.safetensors")
    _, wanted = lit_jax.from_towers(*folders)

    def loss(vision):
        inner = module.bind({"params": params | {"vision": vision}}).vision
        return (inner(images).pooler_output * weight).sum()

    got = jax.grad(loss)(jax.tree.map(jnp.asarray, params["vision"]))
    assert_same_gradients(got, wanted["vision"])


@pytest.mark.parametrize("architecture", ["fastvit_t8", "fastvit_ma36", "fastvit_mci1", "fastvit_mci4"])
def test_timm_s_merging_of_the_branches_changes_nothing_but_rounding(architecture, tmp_path):
    """A folder of what `reparameterize_model` returns is read as it is, and equals the model with branches."""
    sizes = sizes_of(architecture, False)
    model = filled(timm.create_model(architecture, **sizes))
    images = in_squares(64)
    with torch.no_grad():
        want = layers_of(model, images)["pooled"]
    merged = timm.utils.reparameterize_model(model)
    assert not any("conv_kxk" in name for name in merged.state_dict())
    module, params = lit_jax.from_towers(*in_a_folder(merged, tmp_path, sizes))
    assert module.config.vision.inference_mode
    got = module.bind({"params": params}).vision(images).pooler_output
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [48, (96, 40)], ids=str)
@pytest.mark.parametrize("architecture", ["fastvit_t12", "fastvit_mci0", "fastvit_mci3"])
def test_pictures_of_other_sizes_have_the_features_of_timm(architecture, size, tmp_path):
    model, module, params, _ = opened(architecture, False, tmp_path)
    height, width = np.broadcast_to(size, 2)
    images = np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)
    got = module.bind({"params": params}).vision(jnp.asarray(images))
    with torch.no_grad():
        want = layers_of(model, images)
    ours = {"last": got.last_hidden_state, "pooled": got.pooler_output}
    assert_same_layers(ours, {name: want[name] for name in ours})


@pytest.mark.parametrize("size", [64, (48, 80)], ids=str)
def test_a_vit_for_another_size_equals_the_one_that_timm_resizes(size, tmp_path):
    model, _, _, folders = opened(VIT, False, tmp_path)
    height, width = np.broadcast_to(size, 2)
    table = timm.layers.resample_abs_pos_embed(
        model.pos_embed, (height // 16, width // 16), num_prefix_tokens=0, antialias=True
    )
    model.patch_embed.img_size, model.patch_embed.strict_img_size = (height, width), False
    model.pos_embed = torch.nn.Parameter(table)
    images = np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)
    module, params = lit_jax.from_towers(*folders, image_size=size)
    got = module.bind({"params": params}).vision(jnp.asarray(images))
    with torch.no_grad():
        want = layers_of(model, images)
    ours = {"last": got.last_hidden_state, "pooled": got.pooler_output}
    assert_same_layers(ours, {name: want[name] for name in ours})


@pytest.mark.parametrize(
    ("architecture", "merged"),
    [*((name, merged) for name in FASTVITS for merged in (False, True)), (VIT, False)],
)
def test_a_model_of_full_size_has_the_names_and_shapes_of_timm(architecture, merged, tmp_path):
    """What the tensors do not show is compared too."""
    with torch.device("meta"):
        model = timm.create_model(architecture, **({"inference_mode": True} if merged else {}))
    zero = np.zeros((), np.float32)
    tensors = {key: np.broadcast_to(zero, tuple(t.shape)) for key, t in model.state_dict().items()}
    hf = ours(architecture, model, tensors, tmp_path)
    encoder = VISION[hf["model_type"]]
    config = encoder.config_of(hf)
    example = jnp.zeros((1, config.image_size, config.image_size, 3))
    shapes = jax.eval_shape(encoder.Model(config).init, jax.random.key(0), example)["params"]
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}
    found = {
        stored: row.hf_shape(shapes[row.jax_names()[0]])
        for row in encoder.weights(config).rows
        for stored in row.hf_names()
    }
    beside = ("head.", "num_batches_tracked")
    theirs = {
        stored: array.shape
        for stored, array in tensors.items()
        if not stored.startswith(beside[0]) and not stored.endswith(beside[1])
    }
    assert found == theirs
    if architecture == VIT:
        heads, eps = model.blocks[0].attn.num_heads, model.blocks[0].norm1.eps
        assert (heads, eps) == (config.num_attention_heads, config.layer_norm_eps)
        assert config == mobileclip_vit.Config()
        return
    for i, stage in enumerate(model.stages):
        block = stage.blocks[0]
        if config.token_mixers[i] == "attention":
            assert block.token_mixer.head_dim == config.head_dim
            assert block.norm.eps == config.layer_norm_eps
        if config.downsamples[i]:
            large, point = stage.downsample.proj
            assert isinstance(large.act, torch.nn.GELU) == config.lkc_use_act
            assert large.stride == 2 and isinstance(point.act, torch.nn.GELU)
    if architecture == "fastvit_t8" and not merged:
        assert config == fastvit.Config()


def test_a_squeeze_and_excitation_is_as_narrow_as_in_timm():
    for width in range(1, 700):
        for ratio, divisor in ((16, 1), (4, 8)):
            want = timm.layers.make_divisible(width / ratio, divisor, round_limit=0.0)
            assert fastvit_config.squeezed(width, ratio, divisor) == want


@pytest.mark.parametrize("architecture", ["fastvit_t8", "fastvit_ma36", "fastvit_mci0", "fastvit_mci4", VIT])
def test_pictures_are_prepared_as_in_timm(architecture, tmp_path):
    for name in timm.list_pretrained(f"{architecture}.*"):
        with torch.device("meta"):
            model = timm.create_model(name)
        timm.models._hub.save_config_for_hf(model, tmp_path / "config.json")
        ours = load_image_processor(tmp_path)
        theirs = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
        for picture in pictures():
            got = ours(picture, return_tensors="np")["pixel_values"][0]
            np.testing.assert_array_equal(got, theirs(picture).numpy())
