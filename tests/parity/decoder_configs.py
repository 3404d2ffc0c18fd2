"""Configs of text decoders: one of each type, unusual ones, and those that are refused with the message."""

from tests.tiny import EUROBERT, GEMMA, GEMMA2, GEMMA3_TEXT, LLAMA, MISTRAL, QWEN2, QWEN3

FULL, LOCAL = "full_attention", "sliding_attention"


def without(hf, *names):
    return {name: value for name, value in hf.items() if name not in names}


TYPES = {
    "llama": LLAMA,
    "eurobert": EUROBERT,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma 2": GEMMA2,
    "gemma 3": GEMMA3_TEXT,
}
TOWERS = {
    **TYPES,
    "qwen3 with windows in later layers, biases, one head of keys, another activation": QWEN3
    | {
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-2,
        "rope_theta": 10.0,
    },
    "qwen3 that sees both ways, as many heads of keys, windows named by layer": QWEN3
    | {
        "is_causal": False,
        "num_key_value_heads": None,
        "use_sliding_window": True,
        "sliding_window": 2,
        "layer_types": [LOCAL, FULL, LOCAL],
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "qwen2 with windows in later layers, wide heads, a scaling, another activation": QWEN2
    | {
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
        "num_key_value_heads": 1,
        "head_dim": 10,
        "attention_bias": True,  # Not a field of the type: nothing reads it.
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-2,
        "rope_scaling": LLAMA["rope_scaling"],
    },
    "qwen2 that sees both ways, as many heads of keys, windows named by layer": QWEN2
    | {
        "is_causal": False,
        "num_key_value_heads": 4,
        "use_sliding_window": True,
        "sliding_window": 2,
        "layer_types": [LOCAL, FULL, LOCAL],
        "tie_word_embeddings": True,
    },
    "mistral without windows, wide heads, spelled as by transformers 5": without(MISTRAL, "rope_theta")
    | {
        "sliding_window": None,
        "head_dim": 10,
        "num_key_value_heads": 1,
        "hidden_act": "gelu_new",
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0},
    },
    "mistral that sees both ways": MISTRAL | {"is_causal": False, "sliding_window": 2},
    "llama with all biases, heads that share the width, spelled as by transformers 5": without(
        LLAMA, "rope_scaling", "rope_theta", "head_dim"
    )
    | {
        "num_key_value_heads": None,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "relu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 5.0},
    },
    "llama with positions closer together, heads wider than the model": LLAMA
    | {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "head_dim": 10, "num_key_value_heads": 4},
    "gemma that sees both ways, biases, another activation, closer positions": GEMMA
    | {
        "is_causal": False,
        "attention_bias": True,
        "num_key_value_heads": 4,
        "hidden_act": "relu",
        "use_bidirectional_attention": False,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "gemma 2 without caps, biases, windows named by layer, another activation": GEMMA2
    | {
        "attn_logit_softcapping": None,
        "attention_bias": True,
        "layer_types": [FULL, LOCAL, LOCAL],
        "num_key_value_heads": 1,
        "hidden_activation": "silu",
        "query_pre_attn_scalar": 50,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma 2 that sees both ways, low caps": GEMMA2
    | {"is_causal": False, "attn_logit_softcapping": 0.5, "use_bidirectional_attention": False},
    "gemma 3 one way, a pattern of layers, another scale, caps, a scaling": without(
        GEMMA3_TEXT, "layer_types"
    )
    | {
        "use_bidirectional_attention": False,
        "sliding_window": 3,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 0.5,
        "attention_bias": True,
        "hidden_activation": "silu",
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 5.0,
    },
    "gemma 3 with an odd window, spelled as by transformers 5": without(
        GEMMA3_TEXT, "rope_theta", "rope_local_base_freq", "rope_scaling"
    )
    | {
        "sliding_window": 3,
        "num_key_value_heads": 2,
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": 50.0},
            LOCAL: {"rope_type": "default", "rope_theta": 3.0},
        },
    },
}

NOT_HONOURED = [
    (QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters=.*yarn"),
    (QWEN3 | {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_parameters=.*dynamic"),
    (QWEN3 | {"rope_scaling": {"rope_type": "linear"}}, "'linear' wants factor"),
    (QWEN3 | {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor=0"),
    (QWEN3 | {"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}}, "rope_parameters="),
    (QWEN3 | {"rope_scaling": {"rope_type": ["linear"]}}, "rope_parameters="),
    (QWEN3 | {"rope_scaling": [2.0]}, "rope_parameters="),
    (QWEN3 | {"rope_parameters": {FULL: {"rope_theta": 5.0}}}, "rope_parameters=.*one object for all layers"),
    (QWEN3 | {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_parameters="),
    (QWEN3 | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    (QWEN3 | {"layer_types": [FULL, LOCAL, FULL]}, "sliding_window=None"),
    (QWEN3 | {"layer_types": [FULL, FULL]}, "layer_types=.*each of the 3 layers"),
    (QWEN3 | {"layer_types": [FULL, FULL, "chunked_attention"]}, "layer_types=.*chunked"),
    (QWEN3 | {"num_key_value_heads": 3}, "num_key_value_heads=3"),
    (QWEN3 | {"head_dim": 7}, "head_dim=7"),
    (QWEN3 | {"hidden_act": "mish"}, "hidden_act='mish'"),
    (QWEN3 | {"is_causal": "no"}, "is_causal='no'"),
    (QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "qwen2 config: rope_parameters=.*yarn"),
    (QWEN2 | {"use_sliding_window": True, "sliding_window": 0}, "sliding_window=0"),
    (QWEN2 | {"layer_types": [FULL, FULL]}, "qwen2 config: layer_types=.*each of the 3 layers"),
    (QWEN2 | {"num_attention_heads": 5}, "hidden_size=24 does not divide"),
    (MISTRAL | {"sliding_window": 0}, "mistral config: sliding_window=0"),
    (MISTRAL | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "mistral config: rope_parameters="),
    (LLAMA | {"rope_scaling": LLAMA["rope_scaling"] | {"low_freq_factor": 4.0}}, "low_freq_factor=4.0"),
    (LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "wants low_freq_factor and high"),
    (LLAMA | {"head_dim": None, "num_attention_heads": 5}, "hidden_size=24 does not divide"),
    (GEMMA | {"use_bidirectional_attention": True}, "gemma config: use_bidirectional_attention=True"),
    (GEMMA2 | {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not implemented"),
    (GEMMA2 | {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping=0.0"),
    (GEMMA2 | {"attn_logit_softcapping": float("nan")}, "attn_logit_softcapping=nan"),
    (GEMMA2 | {"sliding_window": None}, "gemma2 config: sliding_window=None"),
    (GEMMA2 | {"layer_types": [FULL]}, "gemma2 config: layer_types="),
    (GEMMA3_TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "an object for"),
    (
        GEMMA3_TEXT | {"rope_parameters": {LOCAL: {"rope_type": "linear", "factor": 2.0}}},
        "not implemented for",
    ),
    (GEMMA3_TEXT | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_parameters="),
    (GEMMA3_TEXT | {"sliding_window": None}, "sliding_window=None"),
    (GEMMA3_TEXT | {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0"),
]
