"""LiTs (arXiv:2111.07991): npz files of google-research/vision_transformer, and of big_vision."""

from pathlib import Path

import numpy as np

from lit_jax.hf.conversions import jax_arrays, vit_npz
from lit_jax.hf.conversions.base import Format, Model, Part
from lit_jax.hf.conversions.jax_arrays import Arrays, npz_of, text_tower
from lit_jax.hf.conversions.renames import bound, converted, count, rows, under
from lit_jax.models.composites import OWN_MODEL_TYPE
from lit_jax.utils.typing import ImageProcessor, Tokenizer

LENGTH = 16  # The length of a text in tokens.
_SCALE = rows("t | logit_scale | 1 ->")
_IMAGE_HEAD = rows("""
    img/head/kernel | visual_projection.weight | d e -> e d
    img/head/bias   | visual_projection.bias   | e
""")
_BERT_HEAD = rows("""
    txt/head/kernel | text_projection.weight | d e -> e d
    txt/head/bias   | text_projection.bias   | e
""")
_LAYER = "encoder_block/layer_sequence/layers_{l}/"
_BERT = rows(f"""
    embedder/embedders_token_ids/embedding    | embeddings.word_embeddings.weight       | v d
    embedder/embedders_position_ids/embedding | embeddings.position_embeddings.weight   | n d
    embedder/embedders_segment_ids/embedding  | embeddings.token_type_embeddings.weight | n d
    layer_norm/scale                          | embeddings.LayerNorm.weight             | d
    layer_norm/bias                           | embeddings.LayerNorm.bias               | d

    {_LAYER}attention_block/attention_layer/query/kernel | encoder.layer.{{l}}.attention.self.query.weight | d e -> e d
    {_LAYER}attention_block/attention_layer/query/bias   | encoder.layer.{{l}}.attention.self.query.bias   | d
    {_LAYER}attention_block/attention_layer/key/kernel   | encoder.layer.{{l}}.attention.self.key.weight   | d e -> e d
    {_LAYER}attention_block/attention_layer/key/bias     | encoder.layer.{{l}}.attention.self.key.bias     | d
    {_LAYER}attention_block/attention_layer/value/kernel | encoder.layer.{{l}}.attention.self.value.weight | d e -> e d
    {_LAYER}attention_block/attention_layer/value/bias   | encoder.layer.{{l}}.attention.self.value.bias   | d
    {_LAYER}attention_block/dense_layer/kernel | encoder.layer.{{l}}.attention.output.dense.weight     | d e -> e d
    {_LAYER}attention_block/dense_layer/bias   | encoder.layer.{{l}}.attention.output.dense.bias       | d
    {_LAYER}attention_block/layer_norm/scale   | encoder.layer.{{l}}.attention.output.LayerNorm.weight | d
    {_LAYER}attention_block/layer_norm/bias    | encoder.layer.{{l}}.attention.output.LayerNorm.bias   | d
    {_LAYER}mlp_block/mlp/dense_layer/kernel   | encoder.layer.{{l}}.intermediate.dense.weight         | d f -> f d
    {_LAYER}mlp_block/mlp/dense_layer/bias     | encoder.layer.{{l}}.intermediate.dense.bias           | f
    {_LAYER}mlp_block/dense_layer/kernel       | encoder.layer.{{l}}.output.dense.weight               | f d -> d f
    {_LAYER}mlp_block/dense_layer/bias         | encoder.layer.{{l}}.output.dense.bias                 | d
    {_LAYER}mlp_block/layer_norm/scale         | encoder.layer.{{l}}.output.LayerNorm.weight           | d
    {_LAYER}mlp_block/layer_norm/bias          | encoder.layer.{{l}}.output.LayerNorm.bias             | d
""")


def _read(path: Path, allow_pickle: bool) -> Model:
    arrays = Arrays(npz_of(path) or path)
    image = _image(arrays)
    text = _bert(arrays) if _has_bert(arrays) else _transformer(arrays)
    config = {
        "model_type": OWN_MODEL_TYPE,
        "projection_dim": arrays.size("txt/head/bias", 0, 1),
        "vision_config": image.config,
        "text_config": text.config,
        "vision_head": dict(image.head),
        "text_head": dict(text.head),
        "text_pooling": text.pooling,
    }
    own = image.rows + text.rows + _SCALE
    made = {**image.made, **text.made}
    return Model(config, converted(arrays.path, arrays, own, made=made, dropped=image.dropped))


def _image(arrays: Arrays) -> Part:
    """A ViT that outputs its CLS token, with a linear head or none."""
    part = vit_npz.image_tower(arrays, "img/", "vision_model.")
    if "img/head/kernel" in arrays:
        return part._replace(rows=part.rows + _IMAGE_HEAD, head={"kind": "linear_bias"})
    return part


def _transformer(arrays: Arrays) -> Part:
    config, own = text_tower(arrays)
    return Part(config, own)


def _has_bert(arrays: Arrays) -> bool:
    return "txt/BertEncoder_0/layer_norm/scale" in arrays


def _bert(arrays: Arrays) -> Part:
    """A BERT that outputs its raw CLS token, with a biased linear head."""
    base = "txt/BertEncoder_0/"
    words, first = f"{base}embedder/embedders_token_ids/embedding", base + _LAYER.replace("{l}", "0")
    depth = count(arrays, rf"{base}encoder_block/layer_sequence/layers_(\d+)/")
    width = arrays.size(words, 1, 2)
    config = {
        "model_type": "bert",
        "vocab_size": arrays.size(words, 0, 2),
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": arrays.size(f"{first}mlp_block/mlp/dense_layer/bias", 0, 1),
        "max_position_embeddings": arrays.size(f"{base}embedder/embedders_position_ids/embedding", 0, 2),
        "type_vocab_size": arrays.size(f"{base}embedder/embedders_segment_ids/embedding", 0, 2),
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-12,
    }
    made = {  # The weights of BERT's own pooler, which is not used.
        "text_model.pooler.dense.weight": lambda: np.zeros((width, width), np.float32),
        "text_model.pooler.dense.bias": lambda: np.zeros(width, np.float32),
    }
    own = bound(under(_BERT, base, "text_model."), depth) + _BERT_HEAD
    return Part(config, own, made, pooling="cls", head={"kind": "linear_bias"})


def _image_processor(path: Path) -> ImageProcessor:
    return vit_npz.squares(path, _image(Arrays(npz_of(path) or path)).config["image_size"])


def _tokenizer(path: Path) -> Tokenizer:
    from lit_jax.hf.conversions import vocabularies

    arrays = Arrays(npz_of(path) or path)
    if _has_bert(arrays):
        return vocabularies.word_pieces(arrays.path, LENGTH)
    return vocabularies.sentence_pieces(arrays.path, arrays.size("txt/pos_embedding", 1, 3), cleaning="")


def _is_lit(path: Path) -> bool:
    names = jax_arrays.names_in(path)
    return "t" in names and vit_npz.is_among(names, "img/")


FORMAT = Format("a LiT of vision_transformer", _is_lit, _read, _image_processor, _tokenizer)
