"""Embeds batches of pictures and texts on a mesh."""

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.parallel.sharding import BATCH, compiler_options
from lit_jax.utils.typing import Params

KEPT = 8  # Models whose compiled functions stay in memory.


class Embed(NamedTuple):
    """Jitted functions of a model on a mesh. Rows of inputs and outputs are split over its devices; dropout is off."""

    images: Callable[[Params, Array], Array]  # uint8 [B S1 S2 C] -> unit embeddings [B E], float32.
    # int32 [B N] each -> unit embeddings [B E], float32.
    texts: Callable[[Params, Mapping[str, Array]], Array]
    pool: Callable[[Params, Array], Array]  # uint8 [B S1 S2 C] -> the image tower's pooled output [B Dv].
    pooled: Callable[[Params, Array], Array]  # The output of `pool` -> unit embeddings [B E], float32.
    # int32 [B N] each -> the text tower's pooled output [B Dt].
    pool_texts: Callable[[Params, Mapping[str, Array]], Array]
    # The output of `pool_texts` -> unit embeddings [B E], float32.
    pooled_texts: Callable[[Params, Array], Array]


@functools.lru_cache(maxsize=KEPT)
def make_embed_step(
    module: nn.Module, mesh: Mesh, pixels: PixelNormalizer, dtype: DTypeLike = jnp.float32
) -> Embed:
    """The functions that embed with `module`. The number of devices in `mesh` must divide B; see `check_batch`.

    Equal arguments return the same functions, so that nothing is compiled twice in one process.
    """
    rows = NamedSharding(mesh, BATCH)
    jit = partial(jax.jit, compiler_options=compiler_options(mesh))

    def split_rows(tree: Any) -> Any:
        return lax.with_sharding_constraint(tree, jax.tree.map(lambda _: rows, tree))

    def normalise(images: UInt8[Array, "B S1 S2 C"]) -> Float[Array, "B S1 S2 C"]:
        return pixels.normalise(split_rows(images), dtype)

    @jit
    def images(params: Params, images: UInt8[Array, "B S1 S2 C"]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, images=normalise(images))[0])

    @jit
    def texts(params: Params, texts: Mapping[str, Array]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, texts=split_rows(dict(texts)))[1])

    @jit
    def pool(params: Params, images: UInt8[Array, "B S1 S2 C"]) -> Float[Array, "B Dv"]:
        return split_rows(module.apply({"params": params}, normalise(images), method="pool_images"))

    @jit
    def pooled(params: Params, pooled: Float[Array, "B Dv"]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, pooled_images=split_rows(pooled))[0])

    @jit
    def pool_texts(params: Params, texts: Mapping[str, Array]) -> Float[Array, "B Dt"]:
        return split_rows(module.apply({"params": params}, split_rows(dict(texts)), method="pool_texts"))

    @jit
    def pooled_texts(params: Params, pooled: Float[Array, "B Dt"]) -> Float[Array, "B E"]:
        return split_rows(module.apply({"params": params}, pooled_texts=split_rows(pooled))[1])

    return Embed(images, texts, pool, pooled, pool_texts, pooled_texts)
