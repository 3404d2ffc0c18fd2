"""Under a mesh with explicit axes a model gives its usual numbers, and its outputs lie as its inputs do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lit_jax
from tests import tiny

TOWERS = {
    "vit + bert": (tiny.VIT, tiny.BERT),
    "beit + mpnet": (tiny.BEIT, tiny.MPNET),
    "swin + roberta": (tiny.SWIN, tiny.ROBERTA),
    "dinov3 + clip text": (tiny.DINOV3, tiny.CLIP_TEXT),
    "siglip + modernbert": (tiny.SIGLIP_VISION, tiny.MODERNBERT),
}


def explicit():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))


def inputs(size):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, size, size, 3)).astype(np.float32)
    return images, {"input_ids": rng.integers(5, 90, (8, 12)), "attention_mask": np.ones((8, 12), np.int32)}


def split(tree, mesh, *axes):
    spec = PartitionSpec(*axes)
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec)), tree)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_are_those_of_one_device_and_lie_as_the_batch_does(name):
    vision, text = TOWERS[name]
    module, params = tiny.dual(vision=vision, text=text)
    images, texts = inputs(vision["image_size"])
    params, images, texts = jax.tree.map(jnp.asarray, (params, images, texts))
    want, mesh = module.apply({"params": params}, images, texts), explicit()
    call = jax.jit(lambda params, images, texts: module.apply({"params": params}, images, texts))
    with jax.set_mesh(mesh):
        got = call(split(params, mesh), *split((images, texts), mesh, "data"))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert [jax.typeof(x).sharding.spec[0] for x in got[:2]] == ["data", "data"]
    assert jax.typeof(got[2]).sharding.spec == PartitionSpec()


@pytest.mark.slow
def test_gradients_are_those_of_one_device():
    module, params = tiny.dual()
    images = jnp.asarray(inputs(32)[0])

    def loss(params, images):
        return module.apply({"params": params}, images)[0][:, 0].sum()

    want, mesh = jax.grad(loss)(params, images), explicit()
    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(loss))(split(params, mesh), split(images, mesh, "data"))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.slow
def test_the_facade_runs_under_explicit_axes(tmp_path):
    lit_jax.save(tmp_path, *tiny.dual())
    model = lit_jax.VisionTextDualEncoderModel.from_pretrained(tmp_path)
    images, texts = inputs(32)
    pixels = images.transpose(0, 3, 1, 2)
    want = model(pixel_values=pixels, **texts)
    with jax.set_mesh(explicit()):
        got = model(pixel_values=pixels, **texts)
    np.testing.assert_allclose(got.logits_per_image, want.logits_per_image, rtol=0, atol=1e-4)
