"""Vision transformers of timm as types of transformers that compute the same; the tensors show which."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf.conversions import timm_tables as tables
from lit_jax.hf.conversions.base import Part
from lit_jax.hf.conversions.renames import Rows, biases_without_keys, bound, count
from lit_jax.utils.errors import WeightError

BEIT = {  # A BEiT that normalises the mean of the patches, and has a table of positions.
    "model_type": "beit",
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
    "layer_scale_init_value": 0.0,
    "drop_path_rate": 0.0,
}

_HEADS = {  # Heads by width, except where the name or `model_args` say another number.
    **{64: 2, 96: 3, 192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14},
    **{1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16, 1792: 16, 2048: 16},
}


def heads_of(where: Path, architecture: str, width: int, said: int | None) -> int:
    """The number of heads: as `said`, or for None the usual one for the width. Raises WeightError."""
    if (heads := said or _HEADS.get(width)) is None:
        raise WeightError(
            f"{where}: {architecture} does not say how many heads its width of {width} is divided into; "
            "write num_heads into the model_args of its config.json"
        )
    return heads


class Trunk:
    """The tensors of one trunk, and what they show about its shape."""

    def __init__(
        self, where: Path, source: Mapping[str, np.ndarray], prefix: str, *, is_rotary: bool = False
    ) -> None:
        self.where, self._source, self._prefix = where, source, prefix
        self.is_rotary = is_rotary  # Such positions have no table and fit any picture.
        self.names = {name.removeprefix(prefix) for name in source if name.startswith(prefix)}
        self.depth = count(self.names, r"blocks\.(\d+)\.")
        kernel = self["patch_embed.proj.weight"]
        if kernel.ndim != 4 or not self.depth:
            raise WeightError(
                f"{where}: the tensors of the image tower are not those of a vision transformer"
            )
        self.width, self.channels, self.patch, _ = kernel.shape
        self.hidden = self["blocks.0.mlp.fc2.weight"].shape[-1]
        self.gated = (
            "blocks.0.mlp.fc1_g.weight" in self.names
            or self["blocks.0.mlp.fc1.weight"].shape[0] == 2 * self.hidden
        )
        self.registers = self["reg_token"].shape[1] if "reg_token" in self.names else 0
        self._before, self.side = (0, 0) if is_rotary else self._positioned()

    def _positioned(self) -> tuple[int, int]:
        """How many tokens before the patches have positions, and the patches in a row. Raises WeightError."""
        table, first = self["pos_embed"], int("cls_token" in self.names)
        rows = table.shape[1] if table.ndim == 3 else -1
        # Only the patches have positions, or the CLS token as well, or the registers as well.
        for before in (0, first, first + self.registers):
            side = math.isqrt(max(0, rows - before))
            if side**2 == rows - before:
                return before, side
        raise WeightError(
            f"{self.where}: pos_embed has shape {table.shape}, which is not that of a square picture"
        )

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise WeightError(f"{self.where}: missing from the checkpoint: {self._prefix}{name}")
        return self._source[self._prefix + name]

    def heads(self, architecture: str, said: int | None) -> int:
        """The number of heads: as `said`, or for None the usual one for the width. Raises WeightError."""
        return heads_of(self.where, architecture, self.width, said)

    @property
    def positions(self) -> np.ndarray:
        """The positions of the CLS token and of the patches, [1, 1 + N, D]."""
        table = self["pos_embed"]
        if not self._before:
            return np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
        return np.concatenate([table[:, :1], table[:, self._before :]], axis=1)

    @property
    def register_tokens(self) -> np.ndarray:
        """[1, R, D], with their positions added if they have any."""
        tokens = self["reg_token"]
        return tokens + self["pos_embed"][:, 1 : self._before] if self._before > 1 else tokens

    def biases_without_keys(self, queries: str, values: str) -> dict[str, Callable[[], np.ndarray]]:
        """Like `renames.biases_without_keys`; zeros where there are none."""

        def joined(layer: int) -> np.ndarray:
            name = f"blocks.{layer}.attn.qkv.bias"
            return self[name] if name in self.names else np.zeros(3 * self.width, np.float32)

        return biases_without_keys(joined, self.depth, queries, values)


def _vit(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Pools the CLS token after the last norm: a ViT whose pooler changes nothing."""
    width = trunk.width
    return Part(
        {"model_type": "vit", "qkv_bias": _biased(trunk), "pooler_act": "linear", **common},
        bound(tables.EMBEDDINGS + _attention(trunk) + tables.VIT + tables.NORM, trunk.depth),
        {
            "embeddings.position_embeddings": lambda: trunk.positions,
            "pooler.dense.weight": lambda: np.eye(width, dtype=np.float32),
            "pooler.dense.bias": lambda: np.zeros(width, np.float32),
        },
        dropped="pos_embed",
    )


def _ijepa(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Pools the mean of the patches after the last norm, without a CLS token: an I-JEPA."""
    own = tables.PATCHES + tables.POSITIONS + _attention(trunk) + tables.VIT + tables.NORM
    return Part({"model_type": "ijepa", "qkv_bias": _biased(trunk), **common}, bound(own, trunk.depth))


def _dinov2(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Pools the CLS token after the last norm, with layer scale, gated MLPs or registers."""
    kind, fields = "dinov2", {key: value for key, value in common.items() if key != "intermediate_size"}
    made: dict[str, Any] = {"embeddings.position_embeddings": lambda: trunk.positions}
    if trunk.registers:
        kind, fields = f"{kind}_with_registers", fields | {"num_register_tokens": trunk.registers}
        made["embeddings.register_tokens"] = lambda: trunk.register_tokens
    ratio = 4 if trunk.gated else trunk.hidden // trunk.width  # A gated MLP keeps two thirds of it.
    if (
        trunk.hidden != (int(4 * trunk.width * 2 / 3) + 7) // 8 * 8
        if trunk.gated
        else trunk.hidden % trunk.width
    ):
        raise WeightError(
            f"{trunk.where}: MLPs of {trunk.hidden} for a width of {trunk.width} are not implemented for a {kind}; "
            f"a whole multiple of the width is, and, for gated ones, two thirds of four times the width"
        )
    own = tables.DINOV2 + (tables.GATED if trunk.gated else tables.MLP)
    if "blocks.0.ls1.gamma" in trunk.names:
        own += tables.SCALES
    else:
        ones = [name for row in bound(tables.SCALES, trunk.depth) for name in row.jax_names()]
        made |= dict.fromkeys(ones, lambda: np.ones(trunk.width, np.float32))
    config = {
        "mlp_ratio": ratio,
        "use_swiglu_ffn": trunk.gated,
        "use_mask_token": False,
        "qkv_bias": _biased(trunk),
    }
    return Part(
        {"model_type": kind, **fields, **config},
        bound(tables.EMBEDDINGS + _attention(trunk) + own + tables.NORM, trunk.depth),
        made,
        dropped="pos_embed|reg_token",
    )


def _dinov3(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Pools the CLS token after the last norm, with rotary positions of the patches."""
    width, gated = trunk.width, trunk.gated
    # If a DINOv3 has one bias for q, k and v, its part for k is masked; timm stores only those of q and v.
    joined, own = _biased(trunk), "blocks.0.attn.q_bias" in trunk.names
    rows = tables.DINOV3 + (tables.DINOV3_GATED if gated else tables.DINOV3_MLP)
    made: dict[str, Any] = {"embeddings.mask_token": lambda: np.zeros((1, 1, width), np.float32)}
    if joined:
        made |= trunk.biases_without_keys(
            "layer.{l}.attention.q_proj.bias", "layer.{l}.attention.v_proj.bias"
        )
    config = {
        "model_type": "dinov3_vit",
        "num_register_tokens": trunk.registers,
        "use_gated_mlp": gated,
        "query_bias": joined or own,
        "value_bias": joined or own,
    }
    return Part(
        common | config | ({"hidden_act": "silu"} if gated else {}),
        bound(rows + (tables.DINOV3_BIASES if own else ()), trunk.depth),
        made,
        dropped=r"rope_embed\.periods|local_cls_norm\.\w+|blocks\.\d+\.attn\.qkv\.bias(_mask)?",
    )


def _beit(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Normalises the mean of the patches: a BEiT, whose keys have no bias (it would cancel in the softmax)."""
    scaled = "blocks.0.ls1.gamma" in trunk.names
    made: dict[str, Any] = {"embeddings.position_embeddings": lambda: trunk.positions}
    attention = "encoder.layer.{l}.attention.attention"
    made |= trunk.biases_without_keys(f"{attention}.query.bias", f"{attention}.value.bias")
    own = tables.BEIT_ATTENTION + tables.VIT + tables.BEIT + (tables.BEIT_SCALES if scaled else ())
    return Part(
        {**common, **BEIT, "layer_scale_init_value": 0.1 if scaled else 0.0},
        bound(tables.EMBEDDINGS + own, trunk.depth),
        made,
        dropped=r"pos_embed|blocks\.\d+\.attn\.qkv\.bias",
    )


def clip(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Pools the CLS token after the last norm, with a norm before the blocks."""
    return Part(
        {"model_type": "clip_vision_model", **common}, bound(tables.CLIP + tables.CLIP_BLOCKS, trunk.depth)
    )


def _siglip(trunk: Trunk, common: dict[str, Any]) -> Part:
    """Pools by attention (`map`)."""

    def joined(kind: str) -> np.ndarray:
        return np.concatenate([trunk[f"attn_pool.{part}.{kind}"] for part in ("q", "kv")])

    return Part(
        {"model_type": "siglip_vision_model", **common},
        bound(tables.SIGLIP + tables.CLIP_BLOCKS, trunk.depth),
        {f"head.attention.in_proj_{kind}": partial(joined, kind) for kind in ("weight", "bias")},
        dropped=r"attn_pool\.(q|kv)\..*",
    )


class Family(NamedTuple):
    """Trunks that one type of transformers computes: what marks them, and how they pool."""

    marks: Callable[[Trunk], bool]
    pooling: str  # timm's name for it.
    part: Callable[[Trunk, dict[str, Any]], Part]


FAMILIES = (  # The first that fits is used.
    Family(lambda trunk: trunk.is_rotary, "token", _dinov3),
    Family(lambda trunk: "norm_pre.weight" in trunk.names, "token", clip),
    Family(lambda trunk: "attn_pool.latent" in trunk.names, "map", _siglip),
    Family(lambda trunk: {"fc_norm.weight", "cls_token"} <= trunk.names, "avg", _beit),
    Family(
        lambda trunk: (
            "cls_token" in trunk.names
            and (bool(trunk.registers) or trunk.gated or "blocks.0.ls1.gamma" in trunk.names)
        ),
        "token",
        _dinov2,
    ),
    Family(lambda trunk: "cls_token" in trunk.names, "token", _vit),
    Family(lambda trunk: not trunk.registers and "blocks.0.ls1.gamma" not in trunk.names, "avg", _ijepa),
)


def _biased(trunk: Trunk) -> bool:
    return "blocks.0.attn.qkv.bias" in trunk.names


def _attention(trunk: Trunk) -> Rows:
    return tuple(row for row in tables.ATTENTION if _biased(trunk) or not row.hf.endswith("qkv.bias"))
