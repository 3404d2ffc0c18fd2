"""CLIP's image tower (arXiv:2103.00020), as transformers' CLIPVisionModel; also taken out of a whole CLIP."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from lit_jax.models.encoders.base import Encoder, EncoderOutput
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.encoders.vit import trunk
from lit_jax.models.layers.blocks import layer_norm
from lit_jax.models.layers.patches import Patches
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields and defaults of transformers' CLIPVisionConfig."""

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "quick_gelu"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        # The first field belongs to a projection that dual encoders replace, the second to the initialisation.
        inert = frozenset({"projection_dim", "initializer_factor"})
        return read_config(cls, hf.get("model_type", "clip_vision_model"), hf, inert=inert)

    @property
    def patches(self) -> Patches:
        return Patches(
            size=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            width=self.hidden_size,
            bias=False,
            init_std=self.initializer_range,
        )

    @property
    def block(self) -> BlockSpec:
        return BlockSpec(
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            norm_first=True,
            act=self.hidden_act,
            eps=self.layer_norm_eps,
            attention_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )


class Model(nn.Module):
    """Equals transformers' CLIPVisionModel, with NHWC images."""

    config: Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S1 S2 C"],
        *,
        train: bool = False,
        interpolate: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EncoderOutput:
        """Raises ConfigError for an image size other than the config's, unless `interpolate`."""
        c = self.config
        x, states, weights = trunk(
            c,
            self.compute,
            images,
            train=train,
            interpolate=interpolate,
            pre_norm=True,
            norm=False,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return EncoderOutput(x, self.pool(x), states, weights)

    def pool(self, x: Float[Array, "B N D"]) -> Float[Array, "B _"]:
        """The pooled output of the tokens; called within the compact method."""
        return layer_norm(self.config.block, self.compute, "post_norm")(x[:, 0])


# The rows of the blocks in the towers of CLIP and SigLIP.
LAYERS = table("""
    encoder.layers.{l}.self_attn.q_proj.weight   | layers/attn/query/kernel  | (h k) d -> d h k
    encoder.layers.{l}.self_attn.q_proj.bias     | layers/attn/query/bias    | (h k) -> h k
    encoder.layers.{l}.self_attn.k_proj.weight   | layers/attn/key/kernel    | (h k) d -> d h k
    encoder.layers.{l}.self_attn.k_proj.bias     | layers/attn/key/bias      | (h k) -> h k
    encoder.layers.{l}.self_attn.v_proj.weight   | layers/attn/value/kernel  | (h k) d -> d h k
    encoder.layers.{l}.self_attn.v_proj.bias     | layers/attn/value/bias    | (h k) -> h k
    encoder.layers.{l}.self_attn.out_proj.weight | layers/attn/out/kernel    | d (h k) -> h k d
    encoder.layers.{l}.self_attn.out_proj.bias   | layers/attn/out/bias      | d
    encoder.layers.{l}.layer_norm1.weight        | layers/norm1/scale        | d
    encoder.layers.{l}.layer_norm1.bias          | layers/norm1/bias         | d
    encoder.layers.{l}.layer_norm2.weight        | layers/norm2/scale        | d
    encoder.layers.{l}.layer_norm2.bias          | layers/norm2/bias         | d
    encoder.layers.{l}.mlp.fc1.weight            | layers/mlp/up/kernel      | f d -> d f
    encoder.layers.{l}.mlp.fc1.bias              | layers/mlp/up/bias        | f
    encoder.layers.{l}.mlp.fc2.weight            | layers/mlp/down/kernel    | d f -> f d
    encoder.layers.{l}.mlp.fc2.bias              | layers/mlp/down/bias      | d
""")
VISION = table("""
    embeddings.class_embedding                   | embeddings/cls            | d -> 1 1 d
    embeddings.position_embedding.weight         | embeddings/pos            | n d -> 1 n d
    embeddings.patch_embedding.weight            | embeddings/patch/kernel   | d c p q -> p q c d
    pre_layrnorm.weight                          | pre_norm/scale            | d
    pre_layrnorm.bias                            | pre_norm/bias             | d
    post_layernorm.weight                        | post_norm/scale           | d
    post_layernorm.bias                          | post_norm/bias            | d
""")  # pre_layrnorm is misspelt in every CLIP.


def weights(config: Config) -> WeightMap:
    rows = (VISION + LAYERS).inside("vision_model")
    return rows.bind(depth=config.num_hidden_layers, h=config.num_attention_heads)


ENCODER = Encoder(
    tower="vision",
    Config=Config,
    Model=Model,
    weights=weights,
    pooling="norm(cls)",
    prefix="vision_model.",
    image_processor="CLIPImageProcessor",
    nest="vision_model.",
    dropped=r"embeddings\.position_ids|visual_projection\.weight|classifier\..*",
    poolings={"cls": lambda config: (config, {})},
)


class SegModel(Model):
    """Equals transformers' CLIPSegVisionModel (arXiv:2112.10003): a CLIP for pictures of any size."""

    def __call__(
        self, images: Float[Array, "B S1 S2 C"], *, interpolate: bool = True, **options: bool
    ) -> EncoderOutput:
        """`options` are those of CLIP's model."""
        return super().__call__(images, interpolate=interpolate, **options)


SEG = dataclasses.replace(
    ENCODER,
    Model=SegModel,
    any_size=lambda config: True,
    exportable=(),
    reader="CLIPSegVisionModel",
    image_processor="ViTImageProcessor",
)
CHINESE = dataclasses.replace(ENCODER, image_processor="ChineseCLIPImageProcessor")
