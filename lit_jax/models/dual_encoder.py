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

from lit_jax.models import heads, own_fields
from lit_jax.models.encoders import TEXT, VISION, Encoder, EncoderOutput
from lit_jax.models.encoders.base import first_patch
from lit_jax.models.encoders.field_ranges import LARGEST, Range
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.heads import Head, Projection
from lit_jax.models.layers.pooling import pool_tokens
from lit_jax.models.layers.spec import Compute
from lit_jax.models.weight_map import WeightMap, table
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Params

MODEL_TYPE = "vision-text-dual-encoder"
OWN_MODEL_TYPE = "lit-jax-dual-encoder"  # The same config, of towers that transformers' class cannot hold.
# Models of two towers -> the type of a half that does not name its own.
COMPOSITES = {
    "clip": {"vision": "clip_vision_model", "text": "clip_text_model"},
    "siglip": {"vision": "siglip_vision_model", "text": "siglip_text_model"},
    MODEL_TYPE: {"vision": "vit", "text": "bert"},
    OWN_MODEL_TYPE: {"vision": "vit", "text": "bert"},
}
MOST = 10**11  # Parameters of a model that may be initialised.
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), as CLIP and HF.
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


def half(tower: str, hf: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's config as it is, or its half of the config of a model of two towers; always with a model_type.

    Models of two towers are CLIP, SigLIP and dual encoders. What one leaves out has the defaults of its type, as in
    transformers. Raises WeightError for a half that is no config.
    """
    whole = hf["model_type"]
    if not isinstance(whole, str) or whole not in COMPOSITES:
        return dict(hf)
    name = f"{tower}_config"
    if whole == "clip" and hf.get(f"{name}_dict") is not None:
        name = f"{name}_dict"  # Old CLIPs have both; this one holds, with the defaults of what it leaves out.
    described = {} if hf.get(name) is None else hf[name]
    if not isinstance(described, Mapping):
        raise WeightError(f"{whole} config: {name}={shown(described)} is not usable; wanted a JSON object")
    own = COMPOSITES[whole][tower]
    # Halves of CLIP and SigLIP have one type, whatever they call themselves.
    named = described.get("model_type", own) if whole in (MODEL_TYPE, OWN_MODEL_TYPE) else own
    if not isinstance(named, str) or not named:
        raise WeightError(
            f"the {tower}_config of a {whole} has the model_type {shown(named)}; "
            f"wanted the name of a type, such as {own}"
        )
    return {**described, "model_type": own if named == whole else named}


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """The configs of both towers and of the heads. `logit_bias_init_value` is for the sigmoid loss only.

    Poolings and heads other than the defaults have no place in HF's class; our own layout holds them. A pooling here is
    one of a tower's last hidden state (`layers.pooling`); "pooler" takes what the tower itself pools.
    """

    vision_type: str
    vision: Any
    text_type: str
    text: Any
    projection_dim: int = 512
    logit_scale_init_value: float = LOGIT_SCALE
    logit_bias_init_value: float | None = None
    # Not in the repr, from which older versions made the fingerprints of indexes.
    vision_pooling: str = dataclasses.field(default="pooler", repr=False)
    text_pooling: str = dataclasses.field(default="pooler", repr=False)
    vision_head: Head = dataclasses.field(default=Head(), repr=False)
    text_head: Head = dataclasses.field(default=Head(), repr=False)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "DualEncoderConfig":
        """From the config.json of a VisionTextDualEncoderModel, or of our own kind. Raises WeightError."""
        if hf.get("model_type") not in (MODEL_TYPE, OWN_MODEL_TYPE):
            raise WeightError(
                f"model_type is {shown(hf.get('model_type'))} where {MODEL_TYPE!r} is wanted; "
                "two single towers are joined by from_towers"
            )
        # As transformers 4 does, this also takes a tower out of a whole CLIP.
        vision, text = (half(tower, half(tower, hf)) for tower in TOWERS)
        vision_type, text_type = vision["model_type"], text["model_type"]
        scale, bias = hf.get("logit_scale_init_value", LOGIT_SCALE), hf.get("logit_bias")
        width = hf.get("projection_dim", cls.projection_dim)
        for name, value in (
            ("projection_dim", width),
            ("logit_scale_init_value", scale),
            ("logit_bias", 0.0 if bias is None else bias),
        ):
            kind, span = _HEADS[name]
            if not isinstance(value, kind) or isinstance(value, bool) or not span.holds(value):
                what = "size" if kind is int else "finite number"
                raise WeightError(
                    f"{MODEL_TYPE} config: {name}={shown(value)} is not usable; wanted a {what} of {span}"
                )
        config = cls(
            vision_type,
            encoder_of("vision", vision_type).config_of(vision),
            text_type,
            encoder_of("text", text_type).config_of(text),
            width,
            float(scale),
            None if bias is None else float(bias),
        )
        return config if hf["model_type"] == MODEL_TYPE else own_fields.read(config, hf)

    @property
    def own(self) -> dict[str, Any]:
        """What HF's class has no place for, as config.json holds it."""
        return own_fields.written(self)

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json, in the form that transformers 4.57 and 5 read, or of our own type if `own`."""
        kind: dict[str, Any] = {"architectures": ["VisionTextDualEncoderModel"], "model_type": MODEL_TYPE}
        return ({"model_type": OWN_MODEL_TYPE, **own} if (own := self.own) else kind) | {
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "torch_dtype": "float32",
            "vision_config": {"model_type": self.vision_type, **dataclasses.asdict(self.vision)},
            "text_config": {"model_type": self.text_type, **dataclasses.asdict(self.text)},
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

    Equals VisionTextDualEncoderModel: pooled output of each tower, a projection without bias, unit length; other
    poolings and heads are ours. Profiles show the parts under the names that Flax gives them: vision, text,
    visual_projection, text_projection.
    """

    config: DualEncoderConfig
    compute: Compute = Compute()

    def setup(self) -> None:
        c = self.config
        self.vision = encoder_of("vision", c.vision_type).Model(c.vision, self.compute)
        self.text = encoder_of("text", c.text_type).Model(c.text, self.compute)
        self.visual_projection = Projection(c.vision_head, "vision", c.projection_dim, self.compute)
        self.text_projection = Projection(c.text_head, "text", c.projection_dim, self.compute)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(c.logit_scale_init_value), ())
        if c.logit_bias_init_value is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(c.logit_bias_init_value), ())

    @full_precision
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"] | None = None,
        texts: Mapping[str, Array] | None = None,
        pooled_images: Float[Array, "B Dv"] | None = None,
        pooled_texts: Float[Array, "T Dt"] | None = None,
        train: Collection[str] = (),
    ) -> tuple[Float[Array, "B E"] | None, Float[Array, "T E"] | None, Float[Array, ""]]:
        """Unit embeddings in float32, and exp(logit_scale).

        `texts` has input_ids [T N] and, where wanted, attention_mask, token_type_ids and position_ids;
        `pooled_images` and `pooled_texts` are earlier outputs of `pool_images` and `pool_texts`; `train` names the
        towers ("vision", "text") and the heads ("visual_projection", "text_projection") whose dropout is on.
        """
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
        """The text tower's pooled output, before the projection."""
        return self._pooled("text", self.text(**texts, train=train), texts.get("attention_mask"))

    def _pooled(self, tower: str, output: EncoderOutput, attention_mask: Array | None = None) -> Array:
        pooling = getattr(self.config, f"{tower}_pooling")
        if pooling == "pooler":
            return output.pooler_output
        prefix = first_patch(self.config.vision) if tower == "vision" else 0
        return pool_tokens(pooling, output.last_hidden_state, attention_mask, prefix)

    @full_precision
    def image_features(
        self, images: Array, *, train: bool = False, **options: bool
    ) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """Projected, not normalised, and the tower's whole output. `options` as the tower's call."""
        output = self.vision(images, train=train, **options)
        return self.visual_projection(self._pooled("vision", output), train=train), output

    @full_precision
    def text_features(
        self, texts: Mapping[str, Array], *, train: bool = False, **options: bool
    ) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """Projected, not normalised, and the tower's whole output. `options` as the tower's call."""
        output = self.text(**texts, train=train, **options)
        pooled = self._pooled("text", output, texts.get("attention_mask"))
        return self.text_projection(pooled, train=train), output


_SCALE = table("logit_scale | logit_scale | ").bind(depth=0)


def head_weights(config: DualEncoderConfig) -> WeightMap:
    """The table of what is not a tower's: both heads and the temperature."""
    return heads.weights(config.vision_head, "vision") + heads.weights(config.text_head, "text") + _SCALE


def weights(config: DualEncoderConfig) -> WeightMap:
    """The table of the whole model: the sum of those of the towers and of the heads. It has no row for `logit_bias`."""
    vision = encoder_of("vision", config.vision_type).weights(config.vision)
    text = encoder_of("text", config.text_type).weights(config.text)
    return (
        vision.under(hf="vision_model", jax="vision")
        + text.under(hf="text_model", jax="text")
        + head_weights(config)
    )


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
