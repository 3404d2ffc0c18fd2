"""The embed step on a mesh gives the embeddings of the module."""

import jax
import numpy as np

from lit_jax.inference.embed_step import make_embed_step
from lit_jax.parallel.sharding import put_batch
from tests.steps import BATCH_SIZE, MODULE, PIXELS, batch_of, mesh_of, params_of_module


def test_embeddings_equal_those_of_the_module_and_stay_split_over_the_mesh():
    mesh, batch, params = mesh_of(4, 2), batch_of(0), params_of_module()
    embed = make_embed_step(MODULE, mesh, PIXELS)
    apply = jax.jit(MODULE.apply, static_argnames="method")
    pixels = PIXELS.normalise(batch["images"])
    images, texts, _ = apply({"params": params}, pixels, batch["texts"])
    placed = put_batch(batch, mesh)
    for got, want in (
        (embed.images(params, placed["images"]), images),
        (embed.texts(params, placed["texts"]), texts),
        (embed.texts(params, batch["texts"]), texts),  # Host arrays are accepted too.
        (embed.pool(params, placed["images"]), apply({"params": params}, pixels, method="pool_images")),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert got.sharding.shard_shape(got.shape)[0] == BATCH_SIZE // 8
