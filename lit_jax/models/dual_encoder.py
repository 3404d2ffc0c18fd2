"""Two towers, a projection on each, and a temperature: transformers' VisionTextDualEncoderModel in Flax."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from lit_jax.models.composites import (
    COMPOSITES,
    LOGIT_SCALE,
    MODEL_TYPE,
    OWN_MODEL_TYPE,
    Composite,
    half,
    is_composite,
    missing_of,
    stored_halves,
)
from lit_jax.models.encoders import TEXT, VISION, Encoder, EncoderOutput
from lit_jax.models.encoders.field_ranges import LARGEST, Range
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params

MOST = 10**11  # Parameters of a model that may be initialised.
_HEADS = {  # Field of the heads -> its kind and its range.
    "projection_dim": (int, Range(1, LARGEST)),
    "logit_scale_init_value": (int | float, Range(-80, 80)),  # Its exponential is a float32.
    "logit_bias": (int | float, Range(-1e4, 1e4)),
}


def encoder_of(tower: str, model_type: str) -> Encoder:
    """The architecture of that name. Raises WeightError for one that is not implemented."""
    known = VISION if tower == "vision" else TEXT
    if not isinstance(model_type, str) or model_type not in known:
        raise WeightError(
            f"{tower} tower of type {shown(model_type)} is not implemented; these are: {', '.join(known)}"
        )
    return known[model_type]


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """The configs of both towers and of the heads. `logit_bias_init_value` is for the sigmoid loss only.

    A model without projections (SigLIP) has the `projection_dim` None. `model_type` is the class of transformers that
    the model is saved as; it does not change the numbers, so it is not part of the repr, which names the model in an
    index.
    """

    vision_type: str
    vision: Any
    text_type: str
    text: Any
    projection_dim: int | None = 512
    logit_scale_init_value: float = LOGIT_SCALE
    logit_bias_init_value: float | None = None
    model_type: str = dataclasses.field(default=MODEL_TYPE, repr=False)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "DualEncoderConfig":
        """From the config.json of a model of two towers: one of COMPOSITES. Raises WeightError."""
        whole = hf.get("model_type")
        if (missing := missing_of(whole)) is not None:
            raise WeightError(f"a model of type {whole!r} is not implemented: {missing}")
        if isinstance(whole, str) and whole in {**VISION, **TEXT}:
            raise WeightError(
                f"a model of type {whole!r} is a single tower where two are wanted; lit_jax.from_towers(VISION, TEXT) "
                "joins an image tower and a text tower"
            )
        if not is_composite(whole):
            raise WeightError(
                f"model_type is {shown(whole)} where that of two towers is wanted: one of {', '.join(COMPOSITES)}"
            )
        composite = COMPOSITES[str(whole)]
        # As transformers 4 does, this also takes a tower out of a whole CLIP.
        vision, text = (half(tower, half(tower, hf)) for tower in TOWERS)
        vision_type, text_type = vision["model_type"], text["model_type"]
        heads = {
            "projection_dim": hf.get("projection_dim", cls.projection_dim),
            "logit_scale_init_value": hf.get("logit_scale_init_value", composite.logit_scale),
            "logit_bias": hf.get("logit_bias"),
        }
        if composite.sigmoid:
            heads |= {"projection_dim": None, "logit_bias": 0.0}
        without = {"logit_bias"} | (
            {"projection_dim"} if composite.sigmoid or whole == OWN_MODEL_TYPE else set()
        )
        for name, value in heads.items():
            kind, span = _HEADS[name]
            if value is None and name in without:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not span.holds(value):
                what = "size" if kind is int else "finite number"
                raise WeightError(
                    f"{whole} config: {name}={shown(value)} is not usable; wanted a {what} of {span}"
                )
        bias = heads["logit_bias"]
        return cls(
            vision_type,
            encoder_of("vision", vision_type).config_of(vision),
            text_type,
            encoder_of("text", text_type).config_of(text),
            heads["projection_dim"],
            float(heads["logit_scale_init_value"]),
            None if bias is None else float(bias),
            MODEL_TYPE if composite.any_tower else str(whole),
        )

    @property
    def composite(self) -> Composite:
        """What is known of the class of transformers that the model is saved as."""
        return COMPOSITES[self.model_type]

    @property
    def heads(self) -> WeightMap:
        """The table of what is not in a tower; `logit_bias` is in it only where transformers has a tensor for it."""
        table = self.composite.heads
        return table if self.projection_dim is not None else table.without(r".*_projection/")

    @property
    def towers(self) -> dict[str, tuple[str, Any]]:
        """The type and the config of each tower, by its name."""
        return {"vision": (self.vision_type, self.vision), "text": (self.text_type, self.text)}

    @property
    def readers(self) -> dict[str, str]:
        """The class of transformers that reads each tower by itself."""
        return {tower: encoder_of(tower, model_type).reader for tower, (model_type, _) in self.towers.items()}

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json, in the form that transformers 4.57 and 5 read."""
        heads = {"projection_dim": self.projection_dim, "logit_scale_init_value": self.logit_scale_init_value}
        return {
            "architectures": [self.composite.architecture],
            "model_type": self.model_type,
            **({} if self.composite.sigmoid else heads),
            "torch_dtype": "float32",
            **stored_halves(self.model_type, self.towers, self.projection_dim),
        }


def unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Rows of length one, in float32; a zero row stays zero, with a zero gradient, where HF gives NaN."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    zero = squared == 0
    # Both branches must be differentiable at zero, hence the inner `where`.
    return jnp.where(zero, 0.0, x / jnp.sqrt(jnp.where(zero, 1.0, squared)))


def full_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of DualEncoder that multiplies float32 numbers in float32, forward and backward.

    By default, accelerators round them to bfloat16 or tf32. Models that compute in bfloat16 are not affected.
    """

    @wraps(method)
    def exact(self: "DualEncoder", *arguments: Any, **options: Any) -> Any:
        full = jnp.dtype(self.compute.dtype) == jnp.float32
        with jax.default_matmul_precision("highest") if full else nullcontext():
            return method(self, *arguments, **options)

    return exact


class DualEncoder(nn.Module):
    """Image embeddings, text embeddings and scale; either input may be missing.

    Equals VisionTextDualEncoderModel: pooled output of each tower, a projection without bias, unit length; and
    SiglipModel, which has no projections. Profiles show the parts under the names that Flax gives them: vision, text,
    visual_projection, text_projection.
    """

    config: DualEncoderConfig
    compute: Compute = Compute()

    def setup(self) -> None:
        c = self.config
        self.vision = encoder_of("vision", c.vision_type).Model(c.vision, self.compute)
        self.text = encoder_of("text", c.text_type).Model(c.text, self.compute)
        self.visual_projection, self.text_projection = self._projection(), self._projection()
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(c.logit_scale_init_value), ())
        if c.logit_bias_init_value is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(c.logit_bias_init_value), ())

    def _projection(self) -> Callable[[Array], Array]:
        width = self.config.projection_dim
        if width is None:
            return lambda pooled: pooled
        init = nn.initializers.normal(0.02)
        return nn.Dense(width, use_bias=False, dtype=self.compute.dtype, kernel_init=init)

    @full_precision
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"] | None = None,
        texts: Mapping[str, Array] | None = None,
        pooled_images: Float[Array, "B Dv"] | None = None,
        train: Collection[str] = (),
    ) -> tuple[Float[Array, "B E"] | None, Float[Array, "T E"] | None, Float[Array, ""]]:
        """Unit embeddings in float32, and exp(logit_scale).

        `texts` has input_ids [T N] and, where wanted, attention_mask, token_type_ids and position_ids;
        `pooled_images` are earlier outputs of `pool_images`; `train` names the towers ("vision", "text") whose dropout
        is on.
        """
        if images is not None:
            pooled_images = self.pool_images(images, train="vision" in train)
        image_embeds = text_embeds = None
        if pooled_images is not None:
            image_embeds = unit(self.visual_projection(pooled_images))
        if texts is not None:
            text_embeds = unit(self.text_projection(self.text(**texts, train="text" in train).pooler_output))
        return image_embeds, text_embeds, jnp.exp(self.logit_scale)

    @full_precision
    def pool_images(self, images: Float[Array, "B S1 S2 C"], *, train: bool = False) -> Float[Array, "B Dv"]:
        """The image tower's pooled output, before the projection."""
        return self.vision(images, train=train).pooler_output

    @full_precision
    def image_features(self, images: Array, **options: bool) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """Projected, not normalised, and the tower's whole output. `options` as the tower's call."""
        output = self.vision(images, **options)
        return self.visual_projection(output.pooler_output), output

    @full_precision
    def text_features(
        self, texts: Mapping[str, Array], **options: bool
    ) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """Projected, not normalised, and the tower's whole output. `options` as the tower's call."""
        output = self.text(**texts, **options)
        return self.text_projection(output.pooler_output), output


def weights(config: DualEncoderConfig) -> WeightMap:
    """The table of the whole model: the sum of those of the towers and of the heads.

    It has a row for `logit_bias` only where transformers has a tensor for it.
    """
    tables = WeightMap()
    for tower, (model_type, tower_config) in config.towers.items():
        encoder = encoder_of(tower, model_type)
        # In a CLIP or SigLIP, the level that these towers have by themselves is that of the tower in the whole.
        level = "" if encoder.nest and not config.composite.any_tower else f"{tower}_model"
        tables += encoder.weights(tower_config).under(hf=level, jax=tower)
    return tables + config.heads


def init_params(module: DualEncoder, seed: int, only: Iterable[str] | None = None) -> Params:
    """Random float32 params, a function of `seed`: all of them, or those at the paths `only` of `param_shapes`.

    Raises WeightError, before it allocates any, for a model of more than MOST parameters.
    """
    param_shapes(module)
    if not -(2**63) <= seed < 2**63:
        raise ConfigError(f"the seed of the weights is {seed}; wanted 0 or more, and below 2**32")
    return _init(module, None if only is None else frozenset(only), jax.random.key(seed))


def param_shapes(module: DualEncoder) -> Params:
    """The tree of params as shapes; nothing is computed or allocated. Raises WeightError for more than MOST params."""
    shapes = _init.eval_shape(module, None, jax.eval_shape(jax.random.key, 0))
    if (count := sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))) > MOST:
        raise WeightError(
            f"the configs describe a model of {count:.1e} parameters; at most {MOST:.0e} are allowed"
        )
    return shapes


@partial(jax.jit, static_argnums=(0, 1))
def _init(module: DualEncoder, only: frozenset[str] | None, key: Array) -> Params:
    """The params at the paths `only`; the others are not computed, since they are not returned."""
    params = module.init(key, *_smallest_inputs(module.config))["params"]
    if only is None:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: flat[path] for path in sorted(only)}, sep="/")


def _smallest_inputs(config: DualEncoderConfig) -> tuple[Array, dict[str, Array]]:
    size, channels = config.vision.image_size, config.vision.num_channels
    return jnp.zeros((1, size, size, channels)), {"input_ids": jnp.zeros((1, 1), jnp.int32)}
