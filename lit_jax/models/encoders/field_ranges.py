"""The range of every number in the configs of all encoders; a file with a number outside is damaged or hostile."""

from typing import NamedTuple

LARGEST = 10_000_000  # No size in a real config is larger.
DEEPEST = 1_000  # The largest number of layers.


class Range(NamedTuple):
    """The smallest and the largest usable value of a number."""

    least: int | float
    most: int | float

    def holds(self, value: int | float) -> bool:
        """Whether a number is in the range; NaN is in no range."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{self.least:.10g} to {self.most:.10g}"


_SIZE = Range(1, LARGEST)
_LAYERS = Range(1, DEEPEST)
_GROUPS = Range(1, 1 << 14)  # Groups of the channels of a dense layer.
_ID = Range(0, LARGEST)
_RATE = Range(0, 0.999)  # Dropout rates; a rate of one would leave nothing.
_EPS = Range(1e-20, 0.1)  # Zero would divide by zero; a larger epsilon would outweigh the variance.
_BASE = Range(1, 1e10)  # Bases of rotary positions.
_SCALE = Range(-1, 100)  # Layer scales; below zero, BEiT has none.

RANGES: dict[str, Range] = {
    # Pictures.
    "image_size": Range(1, 1 << 14),
    "patch_size": Range(1, 1 << 12),
    "patch_stride": Range(1, 1 << 12),
    "patch_padding": Range(0, 1 << 12),
    "query_stride": Range(1, 1 << 8),
    "masked_unit_size": Range(1, 1 << 8),
    "num_patches": _SIZE,
    "num_channels": Range(1, 1 << 10),
    "window_size": Range(1, 1 << 8),
    "num_register_tokens": Range(0, 1 << 10),
    "ref_feat_shape": Range(1, 1 << 10),
    "output_stride": _SIZE,
    "rope_grid_offset": Range(0, 1 << 10),
    "pos_embed_shift": Range(0, 100),
    "pos_embed_jitter": Range(1, 100),
    "pos_embed_rescale": Range(1, 100),
    # Widths.
    "hidden_size": _SIZE,
    "hidden_sizes": _SIZE,
    "dim": _SIZE,
    "embed_dim": _SIZE,
    "embedding_size": _SIZE,
    "input_embedding_size": _SIZE,
    "entity_emb_size": _SIZE,
    "intra_bottleneck_size": _SIZE,
    "projection_size": _SIZE,
    "projection_dim": Range(0, LARGEST),
    "intermediate_size": _SIZE,
    "intermediate_sizes": _SIZE,
    "final_size": _SIZE,
    "stem_sizes": _SIZE,
    "attn_pool_intermediate_size": _SIZE,
    "hidden_dim": _SIZE,
    "d_model": _SIZE,
    "d_kv": _SIZE,
    "d_ff": _SIZE,
    "encoder_ffn_dim": _SIZE,
    "adapter_reduction_factor": _SIZE,
    "mlp_ratio": Range(0.01, 100),
    "embed_dim_multiplier": Range(0.01, 100),
    "width_factor": Range(1, 1 << 6),
    # Depths and heads.
    "num_hidden_layers": _LAYERS,
    "n_layers": _LAYERS,
    "num_layers": _LAYERS,
    "encoder_layers": _LAYERS,
    "depths": _LAYERS,
    "num_stages": _LAYERS,
    "num_query_pool": Range(0, DEEPEST),
    "num_attention_heads": Range(1, 1 << 14),
    "attn_pooler_heads": Range(1, 1 << 14),
    "num_key_value_heads": Range(1, 1 << 14),
    "attn_pool_num_heads": Range(1, 1 << 14),
    "head_dim": Range(1, 1 << 14),
    "n_heads": Range(1, 1 << 14),
    "num_heads": Range(1, 1 << 14),
    "encoder_attention_heads": Range(1, 1 << 14),
    "num_feedforward_networks": Range(1, 1 << 10),
    "head_ratio": Range(1, 1 << 14),
    "num_groups": _GROUPS,
    "q_groups": _GROUPS,
    "k_groups": _GROUPS,
    "v_groups": _GROUPS,
    "intermediate_groups": _GROUPS,
    "output_groups": _GROUPS,
    "global_attn_every_n_layers": _SIZE,
    # Tables.
    "vocab_size": _SIZE,
    "entity_vocab_size": _SIZE,
    "type_vocab_size": Range(0, LARGEST),
    "task_type_vocab_size": _SIZE,
    "max_position_embeddings": _SIZE,
    "attn_pooler_queries": _SIZE,
    "pad_token_id": _ID,
    "mask_token_id": _ID,
    "eos_token_id": _ID,
    # Relative positions, windows of attention, convolutions.
    "local_attention": _SIZE,
    "attention_window": Range(2, LARGEST),
    "sliding_window": _SIZE,
    "sliding_window_pattern": _SIZE,
    "max_window_layers": Range(0, LARGEST),
    "query_pre_attn_scalar": _SIZE,
    "attn_logit_softcapping": Range(1e-3, 1e6),
    "block_size": Range(1, 1 << 14),
    "num_random_blocks": Range(0, 1 << 14),
    "max_relative_positions": _SIZE,
    "position_buckets": _SIZE,
    "relative_attention_num_buckets": _SIZE,
    "relative_attention_max_distance": _SIZE,
    "conv_kernel_size": Range(1, 1 << 10),
    "conv_groups": _SIZE,
    # Real numbers.
    "layer_norm_eps": _EPS,
    "norm_eps": _EPS,
    "layer_norm_epsilon": _EPS,
    "rms_norm_eps": _EPS,
    "hidden_dropout_prob": _RATE,
    "attention_probs_dropout_prob": _RATE,
    "attention_dropout": _RATE,
    "embedding_dropout": _RATE,
    "dropout": _RATE,
    "dropout_rate": _RATE,
    "activation_dropout": _RATE,
    "encoder_layerdrop": _RATE,
    "drop_path_rate": _RATE,
    "initializer_range": Range(0, 10),
    "initializer_factor": Range(0, 10),
    "init_std": Range(0, 10),
    "layer_scale_init_value": _SCALE,
    "layerscale_value": _SCALE,
    "rope_theta": _BASE,
    "global_rope_theta": _BASE,
    "local_rope_theta": _BASE,
    "rope_local_base_freq": _BASE,
    # Scaling of rotary positions.
    "factor": Range(0.01, 1e4),
    "low_freq_factor": Range(1e-3, 1e4),
    "high_freq_factor": Range(1e-3, 1e4),
    "original_max_position_embeddings": _SIZE,
}
