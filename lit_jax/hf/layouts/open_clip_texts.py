"""A text tower with its head as the `text_cfg` and the tensors of open_clip: in its own form, or as transformers'."""

from typing import Any

from lit_jax.data.transforms.tokenizer import makes_mask
from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions.open_clip_text import POOLED, POOLERS, hidden_width, tensor_of
from lit_jax.hf.conversions.renames import Rows, bound, returned, under
from lit_jax.hf.layouts.open_clip_images import Tensors, Written, head_of, hf_tensors, plain_mlp, sizes
from lit_jax.hf.text_length import default_length
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params, Tokenizer

_NATIVE = ("clip_text_model", "metaclip_2_text_model", "siglip_text_model")
TRANSFORMERS = (*POOLED, "mt5", "m2m_100")  # Types that open_clip 3 reads from transformers.
_EOS_IS_LARGEST = 2  # The eos_token_id of a clip_text_model that pools at the largest id.


def written(config: DualEncoderConfig, params: Params, tokenizer: Tokenizer) -> Written:
    """The text tower and its head. Raises ConfigError if open_clip has no place for them or for the tokenizer."""
    model_type, _ = config.towers["text"]
    if model_type in _NATIVE:
        return _native(config, params, tokenizer)
    if model_type in TRANSFORMERS:
        return _of_transformers(config, params, tokenizer)
    raise ConfigError(
        f"its text tower is a {model_type}, and open_clip has {', '.join((*_NATIVE, *TRANSFORMERS))} in a form that "
        "lit_jax writes"
    )


def _native(config: DualEncoderConfig, params: Params, tokenizer: Tokenizer) -> Written:
    """open_clip's own text transformer; its names are without a prefix."""
    model_type, own = config.towers["text"]
    if config.text_pooling != "pooler":
        raise ConfigError(f"text_pooling={config.text_pooling!r} of a {model_type} has no place there")
    siglip = model_type == "siglip_text_model"
    found, head = hf_tensors("text", config, params)
    cfg = {
        "context_length": own.max_position_embeddings,
        "vocab_size": own.vocab_size,
        "heads": own.num_attention_heads,
        **sizes(own, own.intermediate_size, own.hidden_act),
        **(_siglip(config, tokenizer) if siglip else _end(model_type, own, tokenizer)),
    }
    rows, fields = _head(config, siglip)
    table = tables.TEXT + under(tables.BLOCKS, "transformer.", "encoder.") + (tables.DENSE if siglip else ())
    tensors = returned(bound(table, own.num_hidden_layers), found) | returned(rows, head)
    return Written(cfg | fields, tensors, own.hidden_act, custom=siglip or bool(fields) or "eos_id" in cfg)


def _end(model_type: str, own: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """Where a causal tower pools: at the largest id, or at the first id that ends a text."""
    end = own.eos_token_id
    old = model_type == "clip_text_model" and end == _EOS_IS_LARGEST
    # The largest id is then in every text.
    last = end == own.vocab_size - 1 and end == getattr(tokenizer, "eos_token_id", None)
    return {} if old or last else {"pool_type": "eos", "eos_id": end}


def _siglip(config: DualEncoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of a tower that sees all tokens and pools at the last one."""
    own = config.text
    if own.pooled_size != config.width:
        raise ConfigError(
            f"the pooled output of its text tower has {own.pooled_size} numbers, and an embedding {config.width}"
        )
    if makes_mask(tokenizer):
        raise ConfigError(
            "its tokenizer masks padding, and a text tower that pools at the last token sees it there"
        )
    if tokenizer.model_max_length < own.max_position_embeddings:
        raise ConfigError(
            f"its tokenizer pads to {tokenizer.model_max_length} tokens, and open_clip to the "
            f"{own.max_position_embeddings} that the text tower has positions for"
        )
    return {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}


def _head(config: DualEncoderConfig, siglip: bool) -> tuple[Rows, dict[str, Any]]:
    """The table of the head of one of open_clip's own towers, and its fields. Raises ConfigError."""
    kind = head_of("text", config).kind
    if siglip and kind == "identity":  # The tower has its linear map inside.
        return (), {}
    if not siglip and kind == "identity" and config.text.hidden_size == config.width:
        return (), {"proj_type": "none"}
    if not siglip and kind == "linear":
        return tables.TEXT_HEAD, {}
    if not siglip and kind == "linear_bias":
        return tables.TEXT_BIASED_HEAD, {"proj_bias": True}
    wanted = "identity" if siglip else "linear, linear_bias or identity"
    raise ConfigError(f"its text_head {kind!r} has no place behind a {config.text_type}: {wanted} has")


def _of_transformers(config: DualEncoderConfig, params: Params, tokenizer: Tokenizer) -> Written:
    """A tower that open_clip takes from transformers, by the config.json in the folder."""
    model_type, own = config.towers["text"]
    how = config.text_pooling
    if model_type not in POOLED and how == "pooler":
        how = "mean"  # open_clip's name for the pooling of these types.
    pooler = next((there for there, here in POOLERS.items() if here == how), None)
    if pooler is None:
        raise ConfigError(f"text_pooling={how!r} has no place there: {', '.join(POOLERS.values())} have")
    _check_padding(own, tokenizer)
    found, head = hf_tensors("text", config, params)
    unused = () if how == "pooler" else ("pooler.",)
    tensors = {tensor_of(name): array for name, array in found.items() if not name.startswith(unused)}
    kind, own_head = _projection(config, head)
    cfg = {
        "hf_pooler_type": pooler,
        "hf_proj_type": kind,
        "context_length": default_length(own, tokenizer),
    }
    return Written(cfg, tensors | own_head)


def _projection(config: DualEncoderConfig, head: Tensors) -> tuple[str, Tensors]:
    """The kind of projection, linear or mlp, and its tensors. Raises ConfigError."""
    kind, width = head_of("text", config), config.text.hidden_size
    if kind.kind == "linear":
        return "linear", returned(tables.HF_LINEAR, head)
    hidden = hidden_width(width, config.width)
    biases = any(array.any() for name, array in head.items() if name.endswith("bias"))
    if not plain_mlp(kind, width, hidden) or biases:
        raise ConfigError(
            f"its text_head {kind.kind!r} has no place behind a {config.text_type}: linear has, and an mlp of hidden "
            f"[{hidden}] with gelu whose biases are zero"
        )
    return "mlp", returned(tables.HF_MLP, head)


def _check_padding(own: Any, tokenizer: Tokenizer) -> None:
    """Raises ConfigError unless the padding token, by which open_clip recognises padding, is used only for padding."""
    pad = tokenizer.pad_token_id
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "sep", "cls", "bos", "unk")}
    if pad is None or not makes_mask(tokenizer) or pad in others:
        raise ConfigError(
            f"its tokenizer pads with {tokenizer.pad_token!r} and does not mask that token alone, as open_clip does"
        )
    if (counted := getattr(own, "pad_token_id", pad)) != pad:
        raise ConfigError(
            f"its tokenizer pads with the id {pad}, and its text tower counts positions from {counted}"
        )
