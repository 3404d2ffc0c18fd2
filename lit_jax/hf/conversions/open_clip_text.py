"""Text towers of transformers in a model of open_clip: `hf_model_name`, a pooler and a projection."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf import model_folder
from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.renames import count
from lit_jax.models.encoders import TEXT
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import Row
from lit_jax.utils.errors import WeightError

# For published models, whose configs are not in the folder: what their tensors do not show.
_ROBERTA = {"layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_KNOWN: dict[str, dict[str, Any]] = {
    r"(FacebookAI/)?xlm-roberta-(base|large)": {"model_type": "xlm-roberta", **_ROBERTA},
    r"facebook/xlm-v-base": {"model_type": "xlm-roberta", **_ROBERTA},
    r"(FacebookAI/)?roberta-(base|large)": {"model_type": "roberta", **_ROBERTA},
    r"(google-bert/)?bert-(base|large)-(un)?cased|(google-bert/)?bert-base-multilingual-(un)?cased": {
        "model_type": "bert",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
    r"google/mt5-(small|base|large|xl|xxl)": {
        "model_type": "mt5",
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
    },
    r"facebook/nllb-200-distilled-(600M|1\.3B)": {
        "model_type": "m2m_100",
        "encoder_attention_heads": 16,
        "encoder_layerdrop": 0.0,
        "pad_token_id": 1,
    },
}
# Name there -> name here.
POOLERS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls", "cls_pooler": "pooler"}
POOLED = ("bert", "roberta", "xlm-roberta")  # Types whose pooler has weights.
_T = "text.transformer."
_BERT_SIZES = {  # Field -> a tensor and the axis that shows it.
    "vocab_size": ("embeddings.word_embeddings.weight", 0),
    "hidden_size": ("embeddings.word_embeddings.weight", 1),
    "max_position_embeddings": ("embeddings.position_embeddings.weight", 0),
    "type_vocab_size": ("embeddings.token_type_embeddings.weight", 0),
    "intermediate_size": ("encoder.layer.0.intermediate.dense.weight", 0),
}
_RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_T5_SIZES = {
    "vocab_size": ("embed_tokens.weight", 0),
    "d_model": ("embed_tokens.weight", 1),
    "d_ff": ("block.0.layer.1.DenseReluDense.wi_0.weight", 0),
    "relative_attention_num_buckets": (_RELATIVE, 0),
    "num_heads": (_RELATIVE, 1),
}
_M2M_100_SIZES = {
    "vocab_size": ("embed_tokens.weight", 0),
    "d_model": ("embed_tokens.weight", 1),
    "encoder_ffn_dim": ("layers.0.fc1.weight", 0),
}


def part(
    folder: Path, where: str, cfg: Mapping[str, Any], source: Mapping[str, np.ndarray], width: int
) -> Part:
    """The text tower that a text_cfg names, with its projection to `width`. Raises WeightError."""
    config = _config(folder, where, cfg, source)
    d = int(config.get("hidden_size") or config.get("d_model") or 1)
    names = {name: _renamed(name, config["model_type"]) for name in source if name.startswith(_T)}
    own = tuple(Row(there, f"text_model.{here}", "...") for there, here in names.items())
    pooler, kind = cfg.get("hf_pooler_type") or "mean_pooler", cfg.get("hf_proj_type") or "mlp"
    if pooler not in POOLERS or kind not in ("linear", "mlp"):
        raise WeightError(
            f"{where}: a text tower with hf_pooler_type {shown(pooler)} and hf_proj_type {shown(kind)} is not "
            f"implemented; {', '.join(POOLERS)} with linear or mlp are"
        )
    pooling, made = POOLERS[pooler], dict[str, Any]()
    if "text.transformer.pooler.dense.weight" not in source:
        pooling = "cls" if pooling == "pooler" else pooling
        if config["model_type"] in POOLED:  # The weights of its own pooler, which is not used.
            made["text_model.pooler.dense.weight"] = lambda: np.zeros((d, d), np.float32)
            made["text_model.pooler.dense.bias"] = lambda: np.zeros(d, np.float32)
    if kind == "linear":
        return Part(config, own + tables.HF_LINEAR, made, pooling=pooling, head={"kind": "linear"})
    hidden = hidden_width(d, width)
    made["text_projection.hidden.0.bias"] = lambda: np.zeros(hidden, np.float32)
    made["text_projection.out.bias"] = lambda: np.zeros(width, np.float32)
    return Part(config, own + tables.HF_MLP, made, pooling=pooling, head={"kind": "mlp", "hidden": [hidden]})


def hidden_width(width: int, embed_dim: int) -> int:
    """The width of the layer between a tower of `width` and an embedding, in the projection "mlp"."""
    return (width + embed_dim) // 2


def tensor_of(name: str) -> str:
    """open_clip's name for a tensor of the tower: the inverse of `_renamed`."""
    if name == "shared.weight":
        return f"{_T}embed_tokens.weight"
    return _T + re.sub(r"^encoder\.(?=block\.|final_layer_norm\.)", "", name)


def _renamed(name: str, model_type: str) -> str:
    """Hugging Face's name for a tensor: open_clip stores the encoder of a T5 without the level around it."""
    name = name.removeprefix(_T)
    if model_type == "m2m_100":  # Hugging Face has a class for the encoder alone, with the same names.
        return name
    if name == "embed_tokens.weight":
        return "shared.weight"
    return f"encoder.{name}" if name.startswith(("block.", "final_layer_norm.")) else name


def _config(
    folder: Path, where: str, cfg: Mapping[str, Any], source: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The tower's config.json, from the folder or, for published models, from what is known and from the tensors."""
    name = cfg["hf_model_name"]
    if (folder / model_folder.CONFIG).is_file():
        stored = model_folder.read_config(folder)
        if stored.get("model_type") in TEXT:
            return stored
    known = next((known for pattern, known in _KNOWN.items() if re.fullmatch(pattern, str(name))), None)
    if known is None:
        raise WeightError(
            f"{where}: nothing is known of the text tower {shown(name)}; copy its config.json into the folder"
        )
    depth, shapes = count(source, r"text\.transformer\.\D*\.(\d+)\."), dict[str, int]()
    sizes = {"mt5": _T5_SIZES, "m2m_100": _M2M_100_SIZES}.get(known["model_type"], _BERT_SIZES)
    for field, (tensor, axis) in sizes.items():
        if _T + tensor not in source:
            raise WeightError(f"{where}: missing from the checkpoint: {_T}{tensor}")
        shapes[field] = source[_T + tensor].shape[axis]
    if known["model_type"] == "mt5":
        return {**known, **shapes, "d_kv": 64, "num_layers": depth}
    if known["model_type"] == "m2m_100":
        return {**known, **shapes, "encoder_layers": depth}
    heads = max(1, shapes["hidden_size"] // 64)
    return {**known, **shapes, "num_hidden_layers": depth, "num_attention_heads": heads}
