"""Tiny towers of every architecture: configs as in config.json, and folders with random weights."""

import functools
import json

import jax
import numpy as np
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lit_jax.hf import model_folder
from lit_jax.hf import save as saving
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, encoder_of
from lit_jax.models.weight_map import WeightMap
from lit_jax.utils._transformers import transformers

VIT = {
    "model_type": "vit",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
DEIT = VIT | {"model_type": "deit"}
DINOV2 = {
    "model_type": "dinov2",
    "image_size": 56,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1}
XLM_ROBERTA = BERT | {"model_type": "xlm-roberta", "pad_token_id": 1}
CAMEMBERT = BERT | {"model_type": "camembert", "pad_token_id": 1}
DATA2VEC_TEXT = BERT | {"model_type": "data2vec-text", "pad_token_id": 1}
XMOD = ROBERTA | {"model_type": "xmod", "languages": ["en_XX", "de_DE"], "default_language": "de_DE"}
LUKE = ROBERTA | {"model_type": "luke", "entity_vocab_size": 20, "entity_emb_size": 8}
IBERT = ROBERTA | {"model_type": "ibert"}
ROBERTA_PRE_NORM = BERT | {"model_type": "roberta-prelayernorm", "pad_token_id": 1}
XLM_ROBERTA_XL = BERT | {"model_type": "xlm-roberta-xl", "pad_token_id": 1, "type_vocab_size": 2}
MEGATRON_BERT = BERT | {"model_type": "megatron-bert"}
REMBERT = BERT | {"model_type": "rembert", "input_embedding_size": 16}
BEIT = VIT | {"model_type": "beit", "use_relative_position_bias": True}
CLIP_VISION = VIT | {"model_type": "clip_vision_model"}
CLIPSEG_VISION = VIT | {"model_type": "clipseg_vision_model"}
CHINESE_CLIP_VISION = VIT | {"model_type": "chinese_clip_vision_model"}
MLCD_VISION = VIT | {"model_type": "mlcd_vision_model"}
AIMV2_VISION = VIT | {"model_type": "aimv2_vision_model"}
VIT_MSN = VIT | {"model_type": "vit_msn"}
VIT_MAE = VIT | {"model_type": "vit_mae", "mask_ratio": 0.0}  # For PyTorch; we never mask.
IJEPA = VIT | {"model_type": "ijepa"}
DATA2VEC_VISION = BEIT | {"model_type": "data2vec-vision"}
SIGLIP_VISION = VIT | {"model_type": "siglip_vision_model"}
SIGLIP2_VISION = {  # Fields as in google/siglip2-base-patch16-naflex, and one of ours.
    "model_type": "siglip2_vision_model",
    "image_size": 32,
    "patch_size": 8,
    "num_patches": 16,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vision_use_head": True,
}
DINOV2_REGISTERS = DINOV2 | {"model_type": "dinov2_with_registers"}
TIPSV2_VISION = DINOV2 | {"model_type": "tipsv2_vision_model", "num_register_tokens": 2}
DINOV3 = VIT | {"model_type": "dinov3_vit", "num_register_tokens": 4}
PERCEPTION_ENCODER = VIT | {
    "model_type": "perception_encoder",
    "ref_feat_shape": 6,
    "attn_pool_num_heads": 2,
    "attn_pool_intermediate_size": 48,
}
EVA02 = VIT | {"model_type": "eva02", "scale_attn_inner": True, "ref_feat_shape": 6}
VITAMIN = {
    "model_type": "vitamin",
    "image_size": 32,
    "embedding_size": 8,
    "hidden_sizes": [12],
    "depths": [3],
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
HIERA = {
    "model_type": "hiera",
    "image_size": [32, 32],
    "embed_dim": 8,
    "depths": [2, 3, 2],
    "num_heads": [1, 2, 4],
    "num_query_pool": 2,
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, True, False],
    "mlp_ratio": 2.0,
}
# Wider, since cosines over few channels magnify rounding, also in PyTorch.
SWINV2 = SWIN | {"model_type": "swinv2", "embed_dim": 32}
CONVNEXT = {
    "model_type": "convnext",
    "image_size": 32,
    "patch_size": 4,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
    "num_stages": 2,
}
CONVNEXTV2 = CONVNEXT | {"model_type": "convnextv2"}
DINOV3_CONVNEXT = {
    "model_type": "dinov3_convnext",
    "image_size": 32,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
}
RESNET = {
    "model_type": "resnet",
    "image_size": 32,  # A field of ours.
    "embedding_size": 8,
    "hidden_sizes": [16, 24],
    "depths": [2, 3],
}
# Groups of many channels, since those of few numbers magnify rounding, also in PyTorch.
BIT = RESNET | {"model_type": "bit", "num_groups": 2}
CLIP_RESNET = RESNET | {"model_type": "clip_resnet", "num_attention_heads": 4}
COCA_VISION = CLIP_VISION | {
    "model_type": "coca_vision",
    "attn_pooler_queries": 5,
    "attn_pooler_heads": 2,
    "projection_size": 24,
}
FASTVIT = {
    "model_type": "fastvit",
    "image_size": 32,
    "hidden_sizes": [8, 16, 32],
    "depths": [2, 1, 2],
    "intermediate_sizes": [16, 24, 48],
    "final_size": 64,
    "token_mixers": ["repmixer", "repmixer", "attention"],
    "downsamples": [False, True, True],
    "se_downsamples": [False, False, True],
    "pos_embs": [False, False, True],
    "lkc_use_act": True,
    "head_dim": 16,
}
MOBILECLIP_VIT = {
    "model_type": "mobileclip_vit",
    "image_size": 32,
    "stem_sizes": [6, 8],
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
LONGFORMER = ROBERTA | {"model_type": "longformer", "attention_window": [4, 12, 6]}
ESM = {  # Fields as in facebook/esm2_t6_8M_UR50D.
    "model_type": "esm",
    "vocab_size": 99,
    "mask_token_id": 5,
    "pad_token_id": 1,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
    "is_folding_model": False,
    "esmfold_config": None,
    "vocab_list": None,
}
ERNIE = BERT | {"model_type": "ernie"}
DPR = BERT | {"model_type": "dpr", "pad_token_id": 0}
BIG_BIRD = BERT | {"model_type": "big_bird"}
BERT_GENERATION = BERT | {"model_type": "bert-generation"}
# Convolutions see the padding, for whose token PyTorch has no gradient: it is none of those in tests/parity.
CONVBERT = BERT | {"model_type": "convbert", "embedding_size": 24, "conv_kernel_size": 5, "pad_token_id": 0}
ROFORMER = BERT | {"model_type": "roformer"}
MPNET = BERT | {"model_type": "mpnet"}
ALBERT = BERT | {"model_type": "albert", "embedding_size": 16}
SQUEEZEBERT = BERT | {"model_type": "squeezebert", "embedding_size": 24, "q_groups": 2, "output_groups": 3}
MOBILEBERT = BERT | {
    "model_type": "mobilebert",
    "embedding_size": 8,
    "intra_bottleneck_size": 16,
    "num_feedforward_networks": 3,
}
CLIP_TEXT = BERT | {"model_type": "clip_text_model", "eos_token_id": 98}
COCA_TEXT = BERT | {"model_type": "coca_text"}
MOBILECLIP_TEXT = BERT | {"model_type": "mobileclip_text"}
METACLIP_2_TEXT = CLIP_TEXT | {"model_type": "metaclip_2_text_model", "eos_token_id": 2}
CHINESE_CLIP_TEXT = BERT | {"model_type": "chinese_clip_text_model"}
SIGLIP_TEXT = BERT | {"model_type": "siglip_text_model"}
TIPSV2_TEXT = BERT | {"model_type": "tipsv2_text_model"}
ELECTRA = BERT | {"model_type": "electra", "embedding_size": 16}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 99,
    "dim": 24,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
}

DEBERTA_V2 = {  # Fields as in microsoft/deberta-v3-base.
    "model_type": "deberta-v2",
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "max_relative_positions": -1,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
DEBERTA = {  # Fields as in microsoft/deberta-base.
    "model_type": "deberta",
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "relative_attention": True,
    "pos_att_type": "c2p|p2c",
    "max_relative_positions": -1,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
MODERNBERT = {  # Fields as in answerdotai/ModernBERT-base.
    "model_type": "modernbert",
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 36,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "local_attention": 4,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
}
_DECODER = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 36,
    "max_position_embeddings": 40,
}
QWEN3 = _DECODER | {  # Fields as in Qwen/Qwen3-Embedding-0.6B.
    "model_type": "qwen3",
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 3,
}
QWEN2 = _DECODER | {  # Fields as in Alibaba-NLP/gte-Qwen2-1.5B-instruct.
    "model_type": "qwen2",
    "num_key_value_heads": 2,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "rope_theta": 1000000.0,
    "sliding_window": 6,
    "use_sliding_window": False,
    "max_window_layers": 3,
}
LLAMA = _DECODER | {  # Fields as in meta-llama/Llama-3.2-1B.
    "model_type": "llama",
    "num_key_value_heads": 2,
    "head_dim": 6,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 4.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 16,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
}
MISTRAL = (
    _DECODER
    | {  # Fields as in intfloat/e5-mistral-7b-instruct; the window is shorter than the texts of tests.
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4,
    }
)
# Fields as in EuroBERT/EuroBERT-210m.
EUROBERT = {name: value for name, value in LLAMA.items() if name != "rope_scaling"} | {
    "model_type": "eurobert",
    "rope_theta": 250000,
    "mask_token_id": 4,
    "pad_token_id": 0,
    "classifier_pooling": "late",
}
GEMMA3_TEXT = _DECODER | {  # Fields as in google/embeddinggemma-300m.
    "model_type": "gemma3_text",
    "_sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "query_pre_attn_scalar": 8,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 6,
    "use_bidirectional_attention": True,
}
GEMMA = _DECODER | {  # Fields as in google/gemma-2b.
    "model_type": "gemma",
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "rope_theta": 10000.0,
}
GEMMA2 = _DECODER | {  # Fields as in BAAI/bge-multilingual-gemma2; the caps are low enough to matter.
    "model_type": "gemma2",
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 3,
    "rope_theta": 10000.0,
    "sliding_window": 4,
    "sliding_window_size": 4,
    "cache_implementation": "hybrid",
}

T5 = {  # The head width is not the tower's width divided by the number of heads.
    "model_type": "t5",
    "vocab_size": 99,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
MT5 = T5 | {"model_type": "mt5", "feed_forward_proj": "gated-gelu"}
UMT5 = MT5 | {"model_type": "umt5"}
BART = {
    "model_type": "bart",
    "vocab_size": 99,
    "d_model": 24,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "max_position_embeddings": 40,
}
MBART = BART | {"model_type": "mbart"}
M2M_100 = BART | {"model_type": "m2m_100", "pad_token_id": 1}
MARIAN = BART | {"model_type": "marian", "pad_token_id": 1}
GTE = BERT | {"model_type": "gte", "pad_token_id": 1, "type_vocab_size": 2}
JINA = GTE | {"model_type": "jina_embeddings_v3"}
NOMIC_BERT = BERT | {"model_type": "nomic_bert"}

TOWERS = {  # Every config above, by its type.
    hf["model_type"]: hf
    for name, hf in tuple(globals().items())
    if name.isupper() and not name.startswith("_") and isinstance(hf, dict)
}


def dual_config(vision=VIT, text=BERT, projection_dim=16):
    return DualEncoderConfig.from_hf(
        {
            "model_type": "vision-text-dual-encoder",
            "vision_config": vision,
            "text_config": text,
            "projection_dim": projection_dim,
        }
    )


def randomised(params, seed=0):
    """Moves every leaf away from zeros and ones, so that a lost bias or scale is noticed."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (np.asarray(leaf) + rng.normal(0, 0.1, leaf.shape)).astype(np.float32), params
    )


def dual(seed=0, **kwargs):
    """A module and randomised params, which the caller may change."""
    module, params = _dual(seed, json.dumps(kwargs))
    return module, jax.tree.map(np.copy, params)


@functools.cache  # Hundreds of tests use the same few models.
def _dual(seed, kwargs):
    module = DualEncoder(dual_config(**json.loads(kwargs)))
    return module, randomised(dual_encoder.init_params(module, seed), seed)


def write_tower(folder, hf, seed=0, without=r"(?!)"):
    """Writes a tower's folder; `without` is a regex of param paths that its checkpoint lacks."""
    tower = "vision" if "image_size" in hf else "text"
    encoder = encoder_of(tower, hf["model_type"])
    config = encoder.Config.from_hf(hf)
    _, params = dual(seed, **{tower: hf})
    table: WeightMap = encoder.weights(config)
    kept = table.without(without)
    dropped = {name for row in table.rows if row not in kept.rows for name in row.hf_names()}
    tensors = {k: v for k, v in table.to_hf(params[tower]).items() if k not in dropped}
    model_folder.write(folder, hf, tensors)
    return params[tower]


WORDS = "[PAD] [UNK] [CLS] [SEP] a red green blue square circle of on white the".split()
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}


def tokenizer():
    """A tokenizer of a few words, like that of BERT."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=40, **names)


def bert_tokenizer(**options):
    """A BERT tokenizer, which splits words into pieces."""
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c the cat dog ##s ##at red . ,".split()
    return transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}, **options)


def nllb_tokenizer(**options):
    """A tokenizer like NLLB's, whose first token is the language; it has two languages, and the words in WORDS."""
    words = [f"▁{word}" for word in WORDS if word.isalpha()]
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "deu_Latn", *sorted({*"".join(words)})]
    tokens += [start + letter for start, letter in merges]
    return transformers.NllbTokenizer(
        {token: i for i, token in enumerate(dict.fromkeys(tokens))},
        list(dict.fromkeys(merges)),
        extra_special_tokens=["eng_Latn", "deu_Latn"],
        **options,
    )


def image_processor(size=32):
    return transformers.ViTImageProcessorPil(size={"height": size, "width": size})


def processor(size=32):
    return transformers.VisionTextDualEncoderProcessor(image_processor(size), tokenizer())


def write_towers(folder, vision=VIT, text=BERT):
    """Writes two towers with all that training needs: `folder`/v and `folder`/t."""
    write_tower(folder / "v", vision)
    write_tower(folder / "t", text, seed=1)
    save = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "v" / "preprocessor_config.json").write_text(json.dumps(save))
    tokenizer().save_pretrained(folder / "t")
    return str(folder / "v"), str(folder / "t")


def write_pairs(folder, n=24, labels=False):
    """Writes a folder source of `n` small pictures, each a coloured square or circle, with captions."""
    folder.mkdir(parents=True)
    rows = []
    rng = np.random.default_rng(0)
    for i in range(n):
        colour, shape = list(COLOURS)[i % 3], ("square", "circle")[i // 3 % 2]
        picture = Image.new("RGB", (40, 36), "white")
        x, y = (int(v) for v in rng.integers(2, 12, 2))
        draw = ImageDraw.Draw(picture)
        (draw.rectangle if shape == "square" else draw.ellipse)((x, y, x + 18, y + 18), COLOURS[colour])
        picture.save(folder / f"{i:03}.png")
        captions = [f"a {colour} {shape}", f"the {shape} of {colour} on white"]
        rows.append({"file_name": f"{i:03}.png", "captions": captions, "id": f"{i:03}"})
        if labels:
            rows[-1]["label"] = f"{colour} {shape}"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"folder:{folder}"


def write_models_and_pictures(folder):
    """Writes dual encoders `model` and `other`, `pairs`, a file that is not a picture, and a picture too large."""
    for name, seed in (("model", 0), ("other", 1)):
        saving.save(folder / name, *dual(seed), processor())
    write_pairs(folder / "pairs")
    (folder / "notes.txt").write_text("no picture")
    Image.new("1", (10_000, 10_000)).save(folder / "vast.png")


def config(folder, **changes):
    """A config of a few steps on tiny towers and pairs, which are made in `folder` if missing."""
    if not (folder / "pairs").exists():
        write_towers(folder)
        write_pairs(folder / "pairs")
    tree = {
        "seed": 0,
        "steps": 6,
        "batch_size": 8,
        "log_every": 1,
        "save_every": 2,
        "model": {
            "vision": str(folder / "v"),
            "text": str(folder / "t"),
            "projection_dim": 16,
            "lock_towers": "LU",
        },
        "data": {
            "train": f"folder:{folder / 'pairs'}",
            "test": f"folder:{folder / 'pairs'}",
            "text_length": 12,
            "threads": 2,
        },
        "optim": {"peak_lr": 1e-2, "warmup_steps": 2, "weight_decay": 0.01},
        "mesh": {"data": 8, "fsdp": 1},
    }
    for path, value in changes.items():
        *groups, name = path.split("__")
        group = tree
        for key in groups:
            group = group.setdefault(key, {})
        group[name] = value
    return tree
