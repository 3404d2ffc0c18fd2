"""A tower with its pooling and head as one function of arrays, which is what a program holds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float

from lit_jax.hf.text_length import positions_of
from lit_jax.models import heads
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.sides import Sides, pair
from lit_jax.utils.typing import Params

# Tower -> its files, as optimum and transformers.js name them.
NAMES = {"vision": "vision_model", "text": "text_model"}
OUTPUTS = {"vision": "image_embeds", "text": "text_embeds"}
BATCH, LENGTH = "batch", "length"  # The sizes that a program leaves open.


class Program(NamedTuple):
    """Arrays by name -> unit embeddings, of one tower."""

    tower: str
    inputs: dict[str, jax.ShapeDtypeStruct]  # Their shapes have the symbols BATCH and LENGTH.
    params: Params  # float32; only those that `call` reads.
    call: Callable[[Params, Mapping[str, Array]], Float[Array, "B E"]]

    @property
    def name(self) -> str:
        return NAMES[self.tower]

    @property
    def output(self) -> str:
        return OUTPUTS[self.tower]

    def example(self, batch: int = 2, length: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs of these sizes; the last token of the first text is padding."""
        rng = np.random.default_rng(seed)
        sizes = {BATCH: batch, LENGTH: length}
        made: dict[str, np.ndarray] = {}
        for name, spec in self.inputs.items():
            shape = tuple(size if isinstance(size, int) else sizes[str(size)] for size in spec.shape)
            if name == "attention_mask":
                made[name] = np.ones(shape, spec.dtype)
                made[name][0, -1] = 0
            elif name == "input_ids":
                made[name] = rng.integers(0, self.words, shape).astype(spec.dtype)
            else:
                made[name] = rng.normal(size=shape).astype(spec.dtype)
        return made

    @property
    def words(self) -> int:
        """Rows of the token table of a text tower."""
        return len(self.params["text"]["embeddings"]["word"]["embedding"])


def programs(
    module: DualEncoder, params: Params, *, with_mask: bool, compute: Compute, size: Sides | None = None
) -> tuple[Program, Program]:
    """The programs of the image tower and of the text tower, in float32, computed as `compute` says.

    Pictures are `pixel_values`, float32 [B C S1 S2], as an image processor returns them, of `size`: by default that of
    the config, from which it differs if a tower resizes its positions (DINOv2's). Texts are `input_ids`, int32
    [B N], and `attention_mask` of the same shape and type if `with_mask`.
    """
    module, config = DualEncoder(module.config, compute), module.config
    full = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)

    def images(params: Params, inputs: Mapping[str, Array]) -> Float[Array, "B E"]:
        pixels = jnp.transpose(inputs["pixel_values"], (0, 2, 3, 1))
        return module.apply({"params": params}, images=pixels)[0]

    def texts(params: Params, inputs: Mapping[str, Array]) -> Float[Array, "B E"]:
        return module.apply({"params": params}, texts=dict(inputs))[1]

    (batch,) = export.symbolic_shape(BATCH)
    sides, channels = pair(size or config.vision.image_size), config.vision.num_channels
    pixels = {"pixel_values": jax.ShapeDtypeStruct((batch, channels, *sides), jnp.float32)}
    limit = f"{LENGTH} <= {positions_of(config.text)}"
    tokens = jax.ShapeDtypeStruct(export.symbolic_shape(f"{BATCH}, {LENGTH}", constraints=[limit]), jnp.int32)
    ids = {"input_ids": tokens} | ({"attention_mask": tokens} if with_mask else {})
    return (
        Program("vision", pixels, _of("vision", full), images),
        Program("text", ids, _of("text", full), texts),
    )


def _of(tower: str, params: Params) -> dict[str, Any]:
    """The params that a tower's embeddings depend on; every apply reads the temperature."""
    wanted = (tower, heads.NAMES[tower], "logit_scale", "logit_bias")
    return {name: params[name] for name in wanted if name in params}
