"""Attention that keeps the scores of a whole row of tokens on the chip: a Pallas kernel for TPU.

The sequences of these towers are short: queries, keys and values of all heads of an image, or of a few texts, fit into
VMEM together. So nothing is blocked along the tokens, and each [B N D] is in HBM once: there is no [B H N N], and no
transposed or padded copy. The backward kernel computes the weights again and needs only the inputs. `vmem.fits` says
whether this is possible.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from lit_jax.models.kernels.row_attention import kernels
from lit_jax.models.kernels.row_attention.kernels import Settings
from lit_jax.models.kernels.row_attention.vmem import DEFAULT_LIMIT, TOGETHER, up, vmem_bytes


def row_attention(
    q: Float[Array, "B N D"],
    k: Float[Array, "B N D"],
    v: Float[Array, "B N D"],
    mask: Bool[Array, "B N"] | Bool[Array, "B _ N"] | None = None,
    bias: Float[Array, "H N N"] | Float[Array, "1 H N N"] | None = None,
    *,
    heads: int,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B N D"]:
    """`layers.attention.attend_in_full` for heads side by side in D, without dropout, returning no weights.

    `mask` is [B N] for the keys, or [B N N] for the keys of each query. `bias` is added to the scores; its gradient is
    the sum over the batch. A query without keys gets the mean of all values. `interpret` runs on any platform, slowly.

    Raises ValueError if `heads` does not divide D.
    """
    if q.shape[-1] % heads:
        raise ValueError(f"{heads} heads do not divide a width of {q.shape[-1]}")
    if mask is not None:
        mask = (mask[:, None] if mask.ndim == 2 else mask).astype(jnp.int8)
    if bias is not None:
        bias = bias.reshape(bias.shape[-3:])
    return _attend(Settings(heads, (q.shape[-1] // heads) ** -0.5, causal, interpret), q, k, v, mask, bias)


def row_attention_sharded(
    q: Float[Array, "B N D"],
    k: Float[Array, "B N D"],
    v: Float[Array, "B N D"],
    mask: Bool[Array, "B N"] | Bool[Array, "B _ N"] | None = None,
    bias: Float[Array, "H N N"] | Float[Array, "1 H N N"] | None = None,
    *,
    heads: int,
    mesh: Mesh,
    causal: bool = False,
) -> Float[Array, "B N D"]:
    """`row_attention` of a batch that is split over all axes of `mesh`, since XLA cannot partition a kernel by itself.

    Every device holds the whole bias; the transpose of shard_map sums its gradient. On CPUs the kernel is interpreted.
    """
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    interpret = mesh.devices.flat[0].platform == "cpu"
    return jax.shard_map(
        partial(row_attention, heads=heads, causal=causal, interpret=interpret),
        mesh=mesh,
        in_specs=(rows, rows, rows, rows, whole),
        out_specs=rows,
        check_vma=False,  # Kernels do not declare over which axes their results vary.
    )(q, k, v, mask, bias)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(s: Settings, q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None) -> Array:
    return _call(kernels.forward, s, {"q": q, "k": k, "v": v, "mask": mask, "bias": bias}, {"y": q})["y"]


def _attend_forward(s: Settings, *given: Array | None) -> tuple[Array, tuple[Array | None, ...]]:
    return _attend(s, *given), given


def _attend_backward(s: Settings, given: tuple, dy: Array) -> tuple[Array | None, ...]:
    q, k, v, mask, bias = given
    inputs = {"q": q, "k": k, "v": v, "mask": mask, "bias": bias, "dy": dy}
    table = None if bias is None else jax.ShapeDtypeStruct(bias.shape, jnp.float32)
    d = _call(kernels.backward, s, inputs, {"dq": q, "dk": k, "dv": v, "dbias": table})
    return d["dq"], d["dk"], d["dv"], None, None if bias is None else d["dbias"].astype(bias.dtype)


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Callable[..., None], s: Settings, inputs: dict[str, Any], like: dict[str, Any]
) -> dict[str, Array]:
    """Runs `kernel` over the batch; its results have the shapes and dtypes of `like`. Entries of None are left out."""
    inputs, like = ({name: x for name, x in d.items() if x is not None} for d in (inputs, like))
    batch, tokens, width = inputs["q"].shape
    most = max(1, TOGETHER // up(tokens, 16))
    rows = max(n for n in range(1, most + 1) if batch % n == 0)

    def spec(name: str, x: Any) -> pl.BlockSpec:
        if "bias" in name:  # The same for every program: one buffer is enough.
            return pl.BlockSpec(x.shape, lambda i: (0, 0, 0), pipeline_mode=pl.Buffered(1))
        return pl.BlockSpec((rows, *x.shape[1:]), lambda i: (i, 0, 0))

    def run(*refs: Any) -> None:
        kernel(s, **dict(zip((*inputs, *like), refs, strict=True)))

    backward = "dy" in inputs
    need = vmem_bytes(tokens, width, s.heads, inputs["q"].dtype, "bias" in inputs, backward=backward)
    results = pl.pallas_call(
        run,
        grid=(batch // rows,),
        in_specs=[spec(*item) for item in inputs.items()],
        out_specs=[spec(*item) for item in like.items()],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like.values()],
        compiler_params=pltpu.CompilerParams(
            # The gradient of the bias is summed over the programs, so they must run on one core, one after another.
            dimension_semantics=("arbitrary" if "dbias" in like else "parallel",),
            vmem_limit_bytes=max(DEFAULT_LIMIT, need),
        ),
        interpret=s.interpret,
        name="row_attention_backward" if backward else "row_attention",
    )(*inputs.values())
    return dict(zip(like, results, strict=True))
