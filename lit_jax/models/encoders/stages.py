"""What Swin and Swin v2 share besides the block: patches, stages of blocks, merging, checks and names."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import EncoderOutput
from lit_jax.models.encoders.field_ranges import DEEPEST, LARGEST
from lit_jax.models.layers.blocks import layer_norm, rematted
from lit_jax.models.layers.dense import Conv
from lit_jax.models.layers.patches import check_channels
from lit_jax.models.layers.position_tables import resize_grid
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.layers.windows import Windows
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.sides import grid, in_words, pair

EPS = 1e-5  # The epsilon of norms outside the blocks: torch's default, whatever the config says.


class Embeddings(nn.Module):
    """Images of any size -> normalised patches, and the numbers of their rows and columns."""

    config: Any
    compute: Compute

    @nn.compact
    def __call__(
        self, images: Float[Array, "B S1 S2 C"], *, interpolate: bool, train: bool
    ) -> tuple[Float[Array, "B N D"], int, int]:
        """Raises ConfigError for another number of channels, and, with absolute positions, for another size.

        The latter is allowed with `interpolate`.
        """
        c, (_, height, width, _) = self.config, images.shape
        check_channels(images, c.num_channels)
        patch = pair(c.patch_size)
        init = nn.initializers.normal(c.initializer_range)
        conv = Conv(
            c.embed_dim,
            patch,
            patch,
            "VALID",
            dtype=self.compute.dtype,
            kernel_init=init,
            as_product=self.compute.on_gpu,
            name="patch",
        )
        x = conv(jnp.pad(images, ((0, 0), (0, -height % patch[0]), (0, -width % patch[1]), (0, 0))))
        rows, columns = x.shape[1:3]
        x = x.reshape(x.shape[0], rows * columns, -1)
        x = layer_norm(dataclasses.replace(c.stage(0), eps=EPS), self.compute, "norm")(x)
        if c.use_absolute_embeddings:
            own = grid(c.image_size, patch)
            pos = self.param("pos", nn.initializers.zeros, (1, math.prod(own), c.embed_dim))
            if not interpolate and (rows, columns) != own:
                raise ConfigError(
                    f"images are {height}x{width}; this tower takes {in_words(c.image_size)} "
                    "unless its positions are interpolated"
                )
            x = x + resize_grid(pos, own, (rows, columns)).astype(x.dtype)
        return nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(x), rows, columns


class Merge(nn.Module):
    """2 x 2 tokens -> one token of twice the width."""

    spec: BlockSpec
    windows: Windows
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B n _"]:
        rows, columns = self.windows.rows, self.windows.columns
        grid = x.reshape(x.shape[0], rows, columns, -1)
        grid = jnp.pad(grid, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)))
        x = rearrange(grid, "b (y i) (x j) d -> b (y x) (j i d)", i=2, j=2)
        norm = layer_norm(dataclasses.replace(self.spec, eps=EPS), self.compute, "norm")
        init = nn.initializers.normal(self.spec.init_std)
        dense = nn.Dense(
            x.shape[-1] // 2, use_bias=False, dtype=self.compute.dtype, kernel_init=init, name="reduction"
        )
        return dense(norm(x)) if self.spec.norm_first else norm(dense(x))


class Stage(nn.Module):
    """Blocks of one width, every second one with shifted windows, and the merging after them."""

    Block: Any  # A Linen class of (spec, windows, compute).
    spec: BlockSpec
    windows: Windows
    drop_path: tuple[float, ...]  # The rate of stochastic depth in each block.
    last: bool  # Whether it is the last stage, after which nothing is merged.
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], *, train: bool, attentions: bool
    ) -> tuple[Array, Float[Array, "_ H M M"] | None]:
        """The tokens, and the attention weights of the last block in each window of each image."""
        depth, compute = len(self.drop_path), self.compute

        def body(block: nn.Module, x: Array, layer: tuple[Array, Array]) -> tuple[Array, Array | None]:
            shifted, drop_path = layer
            return block(x, shifted, drop_path, train=train, attentions=attentions)

        # Not `scan_layers`, since the attention weights of windows have another shape.
        scan = nn.scan(
            rematted(body, compute),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=depth,
            unroll=min(compute.unroll, depth),
            check_constancy_invariants=False,
        )
        block = self.Block(self.spec, self.windows, compute, name="layers")
        layers = jnp.arange(depth) % 2 == 1, jnp.array(self.drop_path, jnp.float32)
        x, weights = scan(block, x, layers)
        if not self.last:
            x = Merge(self.spec, self.windows, self.compute, name="merge")(x)
        return x, None if weights is None else rearrange(weights[-1], "b w h q n -> (b w) h q n")


def tower(
    config: Any,
    compute: Compute,
    block: Any,
    images: Float[Array, "B S1 S2 C"],
    *,
    train: bool,
    interpolate: bool,
    hidden_states: bool,
    attentions: bool,
) -> EncoderOutput:
    """The whole model, called in its compact method: embeddings, stages, last norm, mean of the tokens.

    As in transformers, hidden states and attentions are those of stages, not of blocks.
    """
    embeddings = Embeddings(config, compute, name="embeddings")
    x, rows, columns = embeddings(images, interpolate=interpolate, train=train)
    states, weights = [x], []
    rates = np.linspace(0, config.drop_path_rate, sum(config.depths)).tolist()
    last = len(config.depths) - 1
    for i, depth in enumerate(config.depths):
        spec, windows = config.stage(i), config.windows(i, rows, columns)
        stage = Stage(block, spec, windows, tuple(rates[:depth]), i == last, compute, name=f"stage{i}")
        x, seen = stage(x, train=train, attentions=attentions)
        states.append(x)
        weights += [] if seen is None else [seen]
        rates = rates[depth:]
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    x = layer_norm(config.stage(last), compute, "norm")(x)
    return EncoderOutput(
        x, x.mean(axis=1), tuple(states) if hidden_states else None, tuple(weights) if attentions else None
    )


_EMBEDDINGS = table("""
    embeddings.patch_embeddings.projection.weight | embeddings/patch/kernel | d c p q -> p q c d
    embeddings.patch_embeddings.projection.bias   | embeddings/patch/bias   | d
    embeddings.norm.weight                        | embeddings/norm/scale   | d
    embeddings.norm.bias                          | embeddings/norm/bias    | d

    layernorm.weight                              | norm/scale              | d
    layernorm.bias                                | norm/bias               | d
""")
_POSITIONS = table("embeddings.position_embeddings | embeddings/pos | x n d")

# The rows of one stage: its blocks, and the merging that follows them except in the last stage.
_BLOCKS = table("""
    blocks.{l}.attention.self.query.weight   | layers/attn/query/kernel | (h k) d -> d h k
    blocks.{l}.attention.self.query.bias     | layers/attn/query/bias   | (h k) -> h k
    blocks.{l}.attention.self.key.weight     | layers/attn/key/kernel   | (h k) d -> d h k
    blocks.{l}.attention.self.value.weight   | layers/attn/value/kernel | (h k) d -> d h k
    blocks.{l}.attention.self.value.bias     | layers/attn/value/bias   | (h k) -> h k
    blocks.{l}.attention.output.dense.weight | layers/attn/out/kernel   | d (h k) -> h k d
    blocks.{l}.attention.output.dense.bias   | layers/attn/out/bias     | d

    blocks.{l}.layernorm_before.weight       | layers/norm1/scale       | d
    blocks.{l}.layernorm_before.bias         | layers/norm1/bias        | d
    blocks.{l}.layernorm_after.weight        | layers/norm2/scale       | d
    blocks.{l}.layernorm_after.bias          | layers/norm2/bias        | d
    blocks.{l}.intermediate.dense.weight     | layers/mlp/up/kernel     | f d -> d f
    blocks.{l}.intermediate.dense.bias       | layers/mlp/up/bias       | f
    blocks.{l}.output.dense.weight           | layers/mlp/down/kernel   | d f -> f d
    blocks.{l}.output.dense.bias             | layers/mlp/down/bias     | d
""")
_MERGE = table("""
    downsample.norm.weight                   | merge/norm/scale         | d
    downsample.norm.bias                     | merge/norm/bias          | d
    downsample.reduction.weight              | merge/reduction/kernel   | e d -> d e
""")


def tower_weights(own: WeightMap, config: Any) -> WeightMap:
    """The rows of a model; `own` are the rows of a block that the two architectures do not share."""
    rows = _EMBEDDINGS + (_POSITIONS if config.use_absolute_embeddings else WeightMap())
    for i, depth in enumerate(config.depths):
        stage = _BLOCKS + own + (_MERGE if i + 1 < len(config.depths) else WeightMap())
        stage = stage.bind(depth=depth, h=config.num_heads[i])
        rows += stage.under(hf=f"encoder.layers.{i}", jax=f"stage{i}")
    return rows if config.qkv_bias else rows.without(r".*/attn/(query|key|value)/bias")


def check(config: Any, model_type: str, hf: Mapping[str, Any]) -> None:
    """Raises WeightError if the fields of a config do not fit together."""

    def refuse(name: str, wanted: str) -> None:
        value = hf.get(name, getattr(config, name, None))
        raise WeightError(f"{model_type} config: {name}={value!r} is not usable; wanted {wanted}")

    stages = len(config.depths)
    if sum(config.depths) > DEEPEST:
        refuse("depths", f"at most {DEEPEST} layers")
    if config.hidden_size > LARGEST:
        refuse("depths", f"fewer stages, each of which doubles embed_dim={config.embed_dim}")
    if len(config.num_heads) < stages:
        refuse("num_heads", f"one number for each of the {stages} stages")
    if any(config.embed_dim * 2**i % config.num_heads[i] for i in range(stages)):
        refuse("num_heads", f"divisors of embed_dim={config.embed_dim}, doubled from stage to stage")
    # transformers writes these derived fields, and computes them again when it reads.
    for name, derived in (("hidden_size", config.hidden_size), ("num_layers", stages)):
        if hf.get(name, derived) != derived:
            refuse(name, f"{derived}, which follows from the other fields")
