"""X-MOD (arXiv:2205.06266), as transformers' XmodModel with its pooler: RoBERTa with the adapters of one language."""

import dataclasses
import re
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lit_jax.models.encoders import bert, roberta
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.layers.attention import Attention
from lit_jax.models.layers.blocks import Mlp, layer_norm
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.models.weight_map import WeightMap, listed, table
from lit_jax.utils.errors import WeightError


@dataclasses.dataclass(frozen=True)
class Config(roberta.Config):
    """Fields and defaults of transformers' XmodConfig; `languages` are those whose adapters are read, which is one."""

    vocab_size: int = 30522
    pre_norm: bool = False
    adapter_reduction_factor: int = 2
    adapter_layer_norm: bool = False
    adapter_reuse_layer_norm: bool = True
    ln_before_adapter: bool = True
    languages: tuple[str, ...] = ("en_XX",)
    default_language: str = "en_XX"

    @classmethod
    def from_hf(cls, hf: dict) -> Any:
        """Raises WeightError for a field that would change the numbers and is not implemented, or for no language."""
        language = _language(hf.get("languages") or cls.languages, hf.get("default_language"))
        config: Any = super().from_hf({**hf, "languages": [language], "default_language": language})
        if config.adapter.hidden < 1:
            raise WeightError(
                f"xmod config: adapter_reduction_factor={config.adapter_reduction_factor} is not usable with "
                f"hidden_size={config.hidden_size}; wanted a smaller one"
            )
        return config

    @property
    def block(self) -> BlockSpec:
        return dataclasses.replace(super().block, norm_first=self.pre_norm)

    @property
    def adapter(self) -> BlockSpec:
        """The adapter, which is an MLP."""
        return dataclasses.replace(self.block, hidden=self.hidden_size // self.adapter_reduction_factor)


def _language(languages: Any, default: Any) -> str:
    """The language whose adapters are read: the default one, or the only one. Raises WeightError."""
    if default is None and len(languages) == 1:
        default = languages[0]
    known = listed(map(str, languages))
    if default is None:
        raise WeightError(
            "xmod config: default_language is missing, and the adapters of one language are read; write one of these "
            f"into config.json: {known}"
        )
    if not isinstance(default, str) or default not in languages or not re.fullmatch(r"[\w-]+", default):
        raise WeightError(
            f"xmod config: default_language={shown(default)} is not usable; wanted one of these: {known}"
        )
    return default


class Layer(nn.Module):
    """A block whose MLP is followed by an adapter. Its second norm is used twice, unless the adapter has its own."""

    config: Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 _ N"] | None = None,
        *,
        train: bool = False,
        attentions: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        c, spec, compute = self.config, self.config.block, self.compute
        drop = nn.Dropout(spec.dropout, deterministic=not train)
        norm1, norm2 = (layer_norm(spec, compute, name) for name in ("norm1", "norm2"))
        attention = Attention(spec, compute, name="attn")
        y, weights = attention(norm1(x) if c.pre_norm else x, mask, train=train, attentions=attentions)
        x = x + drop(y)
        x = x if c.pre_norm else norm1(x)
        x = x + drop(Mlp(spec, compute, name="mlp")(norm2(x) if c.pre_norm else x))
        normed = x
        if c.adapter_layer_norm:
            normed = layer_norm(spec, compute, "adapter_norm")(x)
        elif c.adapter_reuse_layer_norm:
            normed = norm2(x)
        x = (normed if c.ln_before_adapter else x) + drop(Mlp(c.adapter, compute, name="adapter")(normed))
        return x if c.pre_norm else norm2(x), weights


class Model(bert.Model):
    """Equals transformers' XmodModel(add_pooling_layer=True) for texts in the config's default language."""

    config: Config

    def layer(self) -> nn.Module:
        """The layer that is stacked."""
        return Layer(self.config, self.compute, name="layers")


_NORM = table("""
    encoder.LayerNorm.weight | norm/scale | d
    encoder.LayerNorm.bias   | norm/bias  | d
""")


def _adapters(language: str) -> WeightMap:
    return table(f"""
        adapter_layer_norm.weight                | layers/adapter_norm/scale   | d
        adapter_layer_norm.bias                  | layers/adapter_norm/bias    | d
        adapter_modules.{language}.dense1.weight | layers/adapter/up/kernel    | f d -> d f
        adapter_modules.{language}.dense1.bias   | layers/adapter/up/bias      | f
        adapter_modules.{language}.dense2.weight | layers/adapter/down/kernel  | d f -> f d
        adapter_modules.{language}.dense2.bias   | layers/adapter/down/bias    | d
    """).inside("encoder.layer.{l}.output")


def weights(config: Config) -> WeightMap:
    rows = _adapters(config.default_language).having({"layers/adapter_norm": config.adapter_layer_norm})
    rows += _NORM if config.pre_norm else WeightMap()
    return bert.weights(config) + rows.bind(depth=config.num_hidden_layers)


ENCODER = dataclasses.replace(
    roberta.ENCODER,
    Config=Config,
    Model=Model,
    weights=weights,
    dropped=rf"{roberta.ENCODER.dropped}|encoder\.layer\.\d+\.output\.adapter_modules\..*",
)
