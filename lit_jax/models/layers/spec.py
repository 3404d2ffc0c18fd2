"""What a transformer block is, and how it is computed."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lit_jax.utils.errors import ConfigError


def keeping(*names: str) -> Callable[..., bool]:
    """A policy of jax.checkpoint that keeps outputs named so by `dense.named`, and what cuDNN's attention returns."""

    def keep(primitive: Any, *_: Any, **params: Any) -> bool:
        if primitive.name == "name":
            return params["name"] in names
        return primitive.name == "dot_product_attention_fwd_wrapper"

    return keep


# What is kept of a block for the backward pass, which computes the rest again.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,  # Everything is kept, and nothing is computed again.
    "products": keeping("narrow product", "wide product"),  # The outputs of dense layers.
    # The outputs that are no wider than their input: the MLP's hidden one is as large as all others together.
    "narrow": keeping("narrow product"),
    "full": jax.checkpoint_policies.nothing_saveable,  # Only the block's input.
}


_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Compute:
    """How to compute, not what to compute: no field changes the params, or the result beyond rounding."""

    dtype: DTypeLike = jnp.float32
    remat: str = "none"  # What is kept of a block for the backward pass: see REMAT.
    unroll: int = 1  # Blocks in each step of the scan.
    # "rows": our kernel for TPUs. "splash": JAX's kernel for long sequences on TPUs. "cudnn": for GPUs. "auto": the
    # first of them that fits. If the chosen one does not fit, XLA compiles attention. Kernels for TPUs need `mesh`.
    attention: Literal["auto", "rows", "splash", "xla", "cudnn"] = "auto"
    mesh: Mesh | None = None  # The devices; the batch is split over all of them.
    text_rows: float = 1.0  # The rows of a packed batch, as a share of its texts (`layers/packing.py`).

    def __post_init__(self) -> None:
        if _name_of(self.dtype) not in _DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r:.60}; want one of {', '.join(_DTYPES)}")

    @property
    def device(self) -> jax.Device:
        """One of the devices that compute; the others are of the same kind."""
        return self.mesh.devices.flat[0] if self.mesh else jax.devices()[0]

    @property
    def on_gpu(self) -> bool:
        return self.device.platform == "gpu"


def _name_of(dtype: Any) -> str | None:
    """The name of a dtype; None for what is none, and for None itself, which JAX takes for a dtype."""
    try:
        return None if dtype is None else jnp.dtype(dtype).name
    except TypeError:
        return None


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What a transformer block is; every field changes the numbers or the params."""

    heads: int
    hidden: int
    norm_first: bool | None  # True: norms before attention and MLP. False: after each sum. None: neither.
    act: str = "gelu"
    eps: float = 1e-12
    biases: str = "qkvo"  # The attention projections that have a bias: query, key, value, out.
    mlp_bias: bool = True
    up_bias: bool | None = None  # Whether the first layer of the MLP has a bias. None: as `mlp_bias`.
    norm_bias: bool = True
    rms: float | None = None  # RMS norms, whose scale is this number + a weight. None: layer norms.
    norm_after: bool = False  # A further norm of what attention and MLP add (Gemma).
    attention_norm: bool = False  # A norm of the heads' outputs, before the projection (EVA-02).
    mlp_input_norm: bool = False  # A further norm of the inputs of the MLP (ViTamin).
    mlp_norm: bool = False  # A norm of the hidden activations of the MLP (EVA-02).
    kv_heads: int | None = None  # Heads of keys and values, if there are fewer than heads of queries.
    head_width: int | None = None  # None: the heads divide the width among themselves.
    rope_values: bool = False  # Values turn as queries and keys do, if these turn (RoFormer).
    qk_norm: bool = False  # A norm of each query and key, by head.
    scale: float | None = None  # The factor of the scores. None: one over the root of a head's width.
    cap: float | None = None  # Scores become cap * tanh(score / cap), before masks (Gemma 2).
    groups: tuple[tuple[str, int], ...] = ()  # For query, key, value, up and down if not 1 (SqueezeBERT).
    gated: bool = False  # act(gate) * up instead of act(up).
    gate_last: bool = False  # The two are stored in the order up, gate.
    layer_scale: float | None = None  # Initial value of a learned per-channel factor on both branches.
    dropout: float = 0.0  # Dropout of what attention and MLP add.
    mlp_dropout: float | None = None  # Dropout of what the MLP adds. None: as `dropout`.
    hidden_dropout: float = 0.0  # Dropout of the hidden activations of the MLP.
    attention_dropout: float = 0.0
    drop_path: float = 0.0  # The rate of every layer, or of the last one if each layer has its own rate.
    layer_drop: float = 0.0  # The rate at which a batch skips a layer (LayerDrop, arXiv:1909.11556).
    init_std: float = 0.02
    init_by_inputs: bool = False  # As in T5, `init_std` is divided by the root of a kernel's inputs.

    def groups_of(self, name: str) -> int:
        """The number of groups of the dense layer `name`."""
        return dict(self.groups).get(name, 1)

    def std(self, inputs: int) -> float:
        """The initial standard deviation of a kernel with this number of inputs."""
        return self.init_std * inputs**-0.5 if self.init_by_inputs else self.init_std
