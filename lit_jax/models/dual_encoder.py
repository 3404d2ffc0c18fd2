"""Two towers, a projection on each, and a temperature: transformers' VisionTextDualEncoderModel in Flax."""

import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from lit_jax.models import heads
from lit_jax.models.composites import LOGIT_SCALE, MODEL_TYPE, OWN_MODEL_TYPE, half
from lit_jax.models.dual_config import DualEncoderConfig, encoder_of
from lit_jax.models.encoders import EncoderOutput
from lit_jax.models.encoders.base import first_patch
from lit_jax.models.explicit_axes import in_auto_axes
from lit_jax.models.heads import Projection
from lit_jax.models.layers.packing import TARGET, packing_of, shared_rows, without_packing
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.sides import pair
from lit_jax.utils.typing import Params

__all__ = [  # Some are imported above, since they too belong to a dual encoder.
    "LOGIT_SCALE",
    "MODEL_TYPE",
    "OWN_MODEL_TYPE",
    "DualEncoder",
    "DualEncoderConfig",
    "encoder_of",
    "half",
    "init_params",
    "param_shapes",
    "tensors",
    "unit",
    "weights",
]
MOST = 10**11  # The largest number of parameters of a model that can be initialised.


def unit(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
    """Vectors of length one, in float32; a zero vector stays zero, with a zero gradient, where HF gives NaN."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    zero = squared == 0
    # The inner `where` makes both branches differentiable at zero.
    return jnp.where(zero, 0.0, x / jnp.sqrt(jnp.where(zero, 1.0, squared)))


def full_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method of DualEncoder so that float32 numbers are multiplied in float32, forward and backward.

    By default, accelerators round them to bfloat16 or tf32. Models that compute in bfloat16 are not affected.
    """

    @wraps(method)
    def exact(self: "DualEncoder", *arguments: Any, **options: Any) -> Any:
        full = jnp.dtype(self.compute.dtype) == jnp.float32
        with jax.default_matmul_precision("highest") if full else nullcontext():
            return method(self, *arguments, **options)

    return exact


class DualEncoder(nn.Module):
    """Image embeddings, text embeddings and logit scale; either input may be missing.

    Equals VisionTextDualEncoderModel (the pooled output of each tower, a projection without bias, unit length) and
    SiglipModel, which has no projections. Other poolings and heads are ours. Profiles show the parts under the names
    that Flax gives them: vision, text, visual_projection, text_projection.
    """

    config: DualEncoderConfig
    compute: Compute = Compute()

    def setup(self) -> None:
        c = self.config
        self.vision = encoder_of("vision", c.vision_type).Model(c.vision, self.compute)
        self.text = encoder_of("text", c.text_type).Model(c.text, self.compute)
        self.visual_projection, self.text_projection = self._head("vision"), self._head("text")
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(c.logit_scale_init_value), ())
        if c.logit_bias_init_value is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(c.logit_bias_init_value), ())

    def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Linen's `apply`, which also works under a mesh with explicit axes: see `explicit_axes`."""
        return in_auto_axes(super().apply, variables, *args, **options)

    def _head(self, tower: str) -> Callable[..., Array]:
        config, width = self.config, self.config.projection_dim
        if width is None:
            return lambda pooled, train=False: pooled
        return Projection(getattr(config, f"{tower}_head"), tower, width, self.compute)

    @full_precision
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"] | None = None,
        texts: Mapping[str, Array] | None = None,
        pooled_images: Float[Array, "B Dv"] | None = None,
        pooled_texts: Float[Array, "T Dt"] | None = None,
        train: bool | Collection[str] = (),
    ) -> tuple[Float[Array, "B E"] | None, Float[Array, "T E"] | None, Float[Array, ""]]:
        """Unit embeddings in float32, and exp(logit_scale).

        `texts` has input_ids [T N] and optionally attention_mask, token_type_ids and position_ids. `pooled_images` and
        `pooled_texts` are earlier outputs of `pool_images` and `pool_texts`. `train` names the towers ("vision",
        "text") and the heads ("visual_projection", "text_projection") whose dropout is on, or is True for all of them.
        """
        train = (*TOWERS, *heads.NAMES.values()) if train is True else train or ()
        if images is not None:
            pooled_images = self.pool_images(images, train="vision" in train)
        if texts is not None:
            pooled_texts = self.pool_texts(texts, train="text" in train)
        image_embeds = text_embeds = None
        if pooled_images is not None:
            image_embeds = unit(self.visual_projection(pooled_images, train="visual_projection" in train))
        if pooled_texts is not None:
            text_embeds = unit(self.text_projection(pooled_texts, train="text_projection" in train))
        return image_embeds, text_embeds, jnp.exp(self.logit_scale)

    @full_precision
    def pool_images(self, images: Float[Array, "B S1 S2 C"], *, train: bool = False) -> Float[Array, "B Dv"]:
        """The image tower's pooled output, before the projection."""
        return self._pooled("vision", self.vision(images, train=train))

    @full_precision
    def pool_texts(self, texts: Mapping[str, Array], *, train: bool = False) -> Float[Array, "T Dt"]:
        """The text tower's pooled output, before the projection. If `texts` hold a packing, texts share rows."""
        mesh = self.compute.mesh
        packing = packing_of(texts, 1 if mesh is None else mesh.size, self.compute.text_rows)
        if packing is not None:
            texts = {"attention_mask": (texts[TARGET] >= 0).astype(jnp.int32)} | without_packing(texts)
        with shared_rows(packing):
            output = self.text(**texts, train=train)
        return self._pooled("text", output, texts.get("attention_mask"))

    def _pooled(self, tower: str, output: EncoderOutput, attention_mask: Array | None = None) -> Array:
        pooling = getattr(self.config, f"{tower}_pooling")
        if pooling == "pooler":
            return output.pooler_output
        prefix = first_patch(self.config.vision) if tower == "vision" else 0
        mask = output.patch_mask if attention_mask is None else attention_mask
        return pool_tokens(pooling, output.last_hidden_state, mask, prefix)

    @full_precision
    def image_features(
        self, images: Array, *, train: bool = False, **options: bool
    ) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """The projected images, not normalised, and the tower's whole output. `options` go to the tower's call."""
        output = self.vision(images, train=train, **options)
        return self.visual_projection(self._pooled("vision", output), train=train), output

    @full_precision
    def text_features(
        self, texts: Mapping[str, Array], *, train: bool = False, **options: bool
    ) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """The projected texts, not normalised, and the tower's whole output. `options` go to the tower's call."""
        output = self.text(**texts, train=train, **options)
        pooled = self._pooled("text", output, texts.get("attention_mask"))
        return self.text_projection(pooled, train=train), output


def weights(config: DualEncoderConfig) -> WeightMap:
    """The weight table of the whole model: the tables of the towers and of the heads.

    It has a row for `logit_bias` only if transformers has a tensor for it.
    """
    tables = WeightMap()
    for tower, (model_type, tower_config) in config.towers.items():
        table = encoder_of(tower, model_type).weights(tower_config)
        tables += table.under(hf=config.level_of(tower), jax=tower)
    return tables + config.heads


def tensors(config: DualEncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The tensors of a transformers checkpoint of the whole model: `params` under the table's names, and buffers.

    Raises WeightError if the params belong to another model.
    """
    found = weights(config).to_hf(params)
    for tower, (model_type, tower_config) in config.towers.items():
        buffers = encoder_of(tower, model_type).buffers(tower_config, params[tower])
        found |= {f"{tower}_model.{name}": array for name, array in buffers.items()}
    return found


def init_params(module: DualEncoder, seed: int, only: Iterable[str] | None = None) -> Params:
    """Random float32 params, a function of `seed`: all of them, or those at the paths `only` of `param_shapes`.

    Raises WeightError for a model of more than MOST parameters, before any is allocated, and ConfigError for a `seed`
    that is not a whole number from 0 to 2**32 - 1.
    """
    param_shapes(module)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ConfigError(
            f"the seed of the weights is {seed!r:.60}; wanted a whole number, 0 or more, below 2**32"
        )
    return _init(module, None if only is None else frozenset(only), jax.random.key(seed))


def param_shapes(module: DualEncoder) -> Params:
    """The tree of params as shapes; nothing is computed or allocated. Raises WeightError for more than MOST params."""
    shapes = _init.eval_shape(module, None, jax.eval_shape(jax.random.key, 0))
    if (count := sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))) > MOST:
        raise WeightError(
            f"the configs describe a model of {count:.1e} parameters; at most {MOST:.0e} are allowed"
        )
    return shapes


def pooled_widths(module: DualEncoder) -> dict[str, int]:
    """Tower -> the width of its pooled output, which its head takes. Nothing is computed or allocated."""

    def pooled(params: Params, images: Array, texts: dict[str, Array]) -> dict[str, Array]:
        apply = partial(module.apply, {"params": params})
        return {"vision": apply(images, method="pool_images"), "text": apply(texts, method="pool_texts")}

    shapes = jax.eval_shape(pooled, param_shapes(module), *_smallest_inputs(module.config))
    return {tower: int(shape.shape[-1]) for tower, shape in shapes.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _init(module: DualEncoder, only: frozenset[str] | None, key: Array) -> Params:
    """The params at the paths `only`; XLA does not compute the others, since they are not returned."""
    params = module.init(key, *_smallest_inputs(module.config))["params"]
    if only is None:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: flat[path] for path in sorted(only)}, sep="/")


def _smallest_inputs(config: DualEncoderConfig) -> tuple[Array, dict[str, Array]]:
    size, channels = pair(config.vision.image_size), config.vision.num_channels
    return jnp.zeros((1, *size, channels)), {"input_ids": jnp.zeros((1, 1), jnp.int32)}
