"""The weight table of FastViT: timm's names on disk."""

from lit_jax.models.encoders import fastvit_config as parts
from lit_jax.models.encoders.fastvit_config import Config
from lit_jax.models.layers.branches import BranchSides
from lit_jax.models.weight_map import WeightMap, table

_BATCH_NORM = table("""
    weight       | scale        | d
    bias         | bias         | d
    running_mean | running_mean | d
    running_var  | running_var  | d
""")
_LAYER_NORM = _BATCH_NORM.without("running")
_KERNEL = table("weight | kernel | e d p q -> p q d e")
_MERGED = _KERNEL + table("bias | bias | e")
_NAMES = {  # Branch -> its names in timm: that of its convolution, if it has one, and that of its norm.
    "square": ("conv_kxk.0.conv", "conv_kxk.0.bn"),
    "point": ("conv_scale.conv", "conv_scale.bn"),
    "identity": ("", "identity"),
}
_DOWNSAMPLE_NAMES = {
    "square": ("large_conv.conv", "large_conv.bn"),
    "small": ("small_conv.conv", "small_conv.bn"),
}
_MLP_NAMES = {"square": ("conv.conv", "conv.bn")}
_SQUEEZE = table("""
    fc1.weight | down/kernel | e d 1 1 -> d e
    fc1.bias   | down/bias   | e
    fc2.weight | up/kernel   | e d 1 1 -> d e
    fc2.bias   | up/bias     | e
""")
_MLP = table("""
    fc1.weight | up/kernel   | f d 1 1 -> d f
    fc1.bias   | up/bias     | f
    fc2.weight | down/kernel | d f 1 1 -> f d
    fc2.bias   | down/bias   | d
""")
_ATTENTION = table("""
    token_mixer.qkv.weight  | attn/{query,key,value}/kernel | (g h k) d -> g d h k
    token_mixer.proj.weight | attn/out/kernel               | d (h k) -> h k d
    token_mixer.proj.bias   | attn/out/bias                 | d
    layer_scale_1.gamma     | attn_scale                    | d 1 1 -> d
    layer_scale_2.gamma     | scale                         | d 1 1 -> d
""")
_MIXED = table("""
    token_mixer.layer_scale.gamma | mixer/scale | d 1 1 -> d
    layer_scale.gamma             | scale       | d 1 1 -> d
""")


def _branches(sides: BranchSides, *, merged: bool, names: dict[str, tuple[str, str]] = _NAMES) -> WeightMap:
    """The rows of a convolution with these branches, or with one kernel if they are `merged`."""
    if merged:
        return _MERGED.inside("reparam_conv")
    rows = WeightMap()
    for name, _ in sides:
        conv, norm = names[name]
        rows += _BATCH_NORM.under(hf=norm, jax=f"{name}/norm")
        if conv:
            rows += _KERNEL.under(hf=conv, jax=name)
    return rows


def _block(config: Config, stage: int) -> WeightMap:
    mlp = _branches(parts.MLP, merged=False, names=_MLP_NAMES).under(hf="mlp", jax="mlp/conv")
    rows = mlp + _MLP.under(hf="mlp", jax="mlp")
    if config.token_mixers[stage] == "attention":
        norm = _LAYER_NORM if config.use_layer_norm else _BATCH_NORM
        return rows + _ATTENTION + norm.under(hf="norm", jax="norm")
    if config.inference_mode:
        rows += _branches((), merged=True).under(hf="token_mixer", jax="mixer/conv")
        return rows + _MIXED.without("mixer")
    for name, sides in parts.MIXER.items():
        hf = "token_mixer.mixer" if name == "conv" else "token_mixer.norm"
        rows += _branches(sides, merged=False).under(hf=hf, jax=f"mixer/{name}")
    return rows + _MIXED


def _stage(config: Config, stage: int) -> WeightMap:
    merged, rows = config.inference_mode, WeightMap()
    if config.downsamples[stage]:
        large = _branches(parts.DOWNSAMPLE, merged=merged, names=_DOWNSAMPLE_NAMES)
        rows += large.under(hf="downsample.proj.0", jax="downsample/conv")
        if config.se_downsamples[stage]:
            rows += _SQUEEZE.under(hf="downsample.proj.0.se", jax="downsample/squeeze")
        pointwise = _branches(parts.POINTWISE, merged=merged)
        rows += pointwise.under(hf="downsample.proj.1", jax="pointwise/conv")
    if config.pos_embs[stage]:
        rows += _MERGED.under(hf=f"pos_emb.{'reparam_conv' if merged else 'pos_enc'}", jax="positions")
    blocks = _block(config, stage).under(hf="blocks.{l}", jax="layers")
    return rows + blocks.bind(
        depth=config.depths[stage], h=max(1, config.hidden_sizes[stage] // config.head_dim)
    )


def weights(config: Config) -> WeightMap:
    merged, rows = config.inference_mode, WeightMap()
    for i, (_, _, sides) in enumerate(parts.stem(config)):
        rows += _branches(sides, merged=merged).under(hf=f"stem.{i}", jax=f"stem{i}/conv")
    for i in range(len(config.depths)):
        rows += _stage(config, i).under(hf=f"stages.{i}", jax=f"stage{i}")
    rows += _branches(parts.final(config), merged=merged).under(hf="final_conv", jax="final/conv")
    return rows + _SQUEEZE.under(hf="final_conv.se", jax="final/squeeze")
