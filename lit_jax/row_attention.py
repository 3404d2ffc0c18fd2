"""Attention that keeps the scores of a whole row of tokens on the chip: a Pallas kernel for TPU.

For the short sequences of these towers a picture's, or a few texts', queries, keys and values of every head fit into
VMEM together. So nothing is blocked along the tokens, and HBM sees each of [B N D] once: no [B H N N], no transposed
and no padded copy. The backward kernel computes the weights anew; nothing but the inputs is kept for it.

A head is cut out by zeroing its neighbours within columns that begin and end at multiples of 128 lanes: no data moves
across lanes, and the systolic array multiplies 128 columns in the time of 64. By the schedule that the compiler
prints for v5e that is 30 % fewer cycles than slices of 64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

LANES = 128
MiB = 2**20
TOGETHER = 256  # Tokens of one program: as many short texts, so that they cost no more VMEM than a picture.
DEFAULT_LIMIT = 16 * MiB  # What a kernel gets where it asks for no more.
# Bytes of VMEM of one core, by `jax.Device.device_kind`.
VMEM = {"TPU v4": 16 * MiB, "TPU v5 lite": 128 * MiB, "TPU v5": 64 * MiB, "TPU v6 lite": 128 * MiB}


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
    """`attention.attend_in_full` of heads that lie side by side in D, without weights and dropout.

    `mask` [B N] is of the keys, [B N N] of each query's keys. `bias` is added to the scores; its gradient is the sum
    over the batch. A query that may look at no key gets the mean of all values. `interpret` runs anywhere, slowly.

    Raises ValueError where `heads` does not divide D.
    """
    if q.shape[-1] % heads:
        raise ValueError(f"{heads} heads do not divide a width of {q.shape[-1]}")
    if mask is not None:
        mask = (mask[:, None] if mask.ndim == 2 else mask).astype(jnp.int8)
    if bias is not None:
        bias = bias.reshape(bias.shape[-3:])
    return _attend(_Settings(heads, (q.shape[-1] // heads) ** -0.5, causal, interpret), q, k, v, mask, bias)


def row_attention_sharded(
    q: Float[Array, "B N D"],
    k: Float[Array, "B N D"],
    v: Float[Array, "B N D"],
    mask: Bool[Array, "B N"] | Bool[Array, "B _ N"] | None = None,
    bias: Float[Array, "H N N"] | Float[Array, "1 H N N"] | None = None,
    *,
    heads: int,
    mesh: Mesh,
    axes: str | tuple[str, ...],
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B N D"]:
    """`row_attention` of a batch that is split over `axes` of `mesh`: XLA cannot partition a kernel by itself.

    Every device holds the whole bias; the transpose of shard_map sums its gradient.
    """
    rows, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(
        partial(row_attention, heads=heads, causal=causal, interpret=interpret),
        mesh=mesh,
        in_specs=(rows, rows, rows, rows, whole),
        out_specs=rows,
        check_vma=False,  # Kernels do not say over which axes their results vary.
    )(q, k, v, mask, bias)


def fits(
    tokens: int, width: int, heads: int, dtype: DTypeLike, bias: bool = False, *, kind: str = "TPU v4"
) -> bool:
    """Whether forward and backward fit into the VMEM of a device of this kind; an unknown kind counts as v4, the least.

    The most tokens in bfloat16, without and with a bias, of heads of 64 (of 80 in the last column):

        width                 384         768        1024        1280
        v4, 16 MiB        640, 384    512, 256    416, 240    304, 168
        v5p, 64 MiB      1504, 896   1280, 640   1176, 536    864, 512
        v5e, v6e, 128   2176, 1280   2016, 936   1888, 816   1328, 768
    """
    limit = VMEM.get(kind, VMEM["TPU v4"])
    return all(vmem_bytes(tokens, width, heads, dtype, bias, backward=b) <= limit for b in (False, True))


def vmem_bytes(
    tokens: int, width: int, heads: int, dtype: DTypeLike, bias: bool = False, *, backward: bool
) -> int:
    """VMEM of one program of a kernel: an upper bound that grows with `tokens`. ViT-B/16 at 224: 6.7 and 6.4 MiB.

    Two buffers for each of [N D], of which the forward kernel has 4 and the backward kernel 7; one float32 [H N N]
    for the bias and one for its gradient; a mask; the float32 scores [N N] of the heads that are computed together.
    """
    size = jnp.dtype(dtype).itemsize
    block = max(_up(tokens, 32 // size), TOGETHER) * _up(width, LANES) * size
    mask = max(_up(tokens, 32) * _up(tokens, LANES), TOGETHER * 2 * LANES)
    scores = _up(tokens, 8) * _up(tokens, LANES) * 4
    tables = heads * (2 if backward else 1) if bias else 0
    at_once = max(_scores_at_once(backward), _period(width, heads) * heads // width * scores)
    return 2 * (7 if backward else 4) * block + 2 * mask + (tables + 3) * scores + at_once


@dataclass(frozen=True)
class _Settings:
    heads: int
    scale: float
    causal: bool
    interpret: bool


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(s: _Settings, q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None) -> Array:
    return _call(_forward, s, {"q": q, "k": k, "v": v, "mask": mask, "bias": bias}, {"y": q})["y"]


def _attend_forward(s: _Settings, *given: Array | None) -> tuple[Array, tuple[Array | None, ...]]:
    return _attend(s, *given), given


def _attend_backward(s: _Settings, given: tuple, dy: Array) -> tuple[Array | None, ...]:
    q, k, v, mask, bias = given
    inputs = {"q": q, "k": k, "v": v, "mask": mask, "bias": bias, "dy": dy}
    table = None if bias is None else jax.ShapeDtypeStruct(bias.shape, jnp.float32)
    d = _call(_backward, s, inputs, {"dq": q, "dk": k, "dv": v, "dbias": table})
    return d["dq"], d["dk"], d["dv"], None, None if bias is None else d["dbias"].astype(bias.dtype)


_attend.defvjp(_attend_forward, _attend_backward)


def _call(
    kernel: Callable[..., None], s: _Settings, inputs: dict[str, Any], like: dict[str, Any]
) -> dict[str, Array]:
    """Runs `kernel` over the batch; its results have the shapes and dtypes of `like`. What is None does not exist."""
    inputs, like = ({name: x for name, x in d.items() if x is not None} for d in (inputs, like))
    batch, tokens, width = inputs["q"].shape
    most = max(1, TOGETHER // _up(tokens, 16))
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
            # The gradient of the bias is summed over the programs: they must run in one core, one after the other.
            dimension_semantics=("arbitrary" if "dbias" in like else "parallel",),
            vmem_limit_bytes=max(DEFAULT_LIMIT, need),
        ),
        interpret=s.interpret,
        name="row_attention_backward" if backward else "row_attention",
    )(*inputs.values())
    return dict(zip(like, results, strict=True))


def _forward(s: _Settings, q: Any, k: Any, v: Any, y: Any, mask: Any = None, bias: Any = None) -> None:
    def head(r: Array, at: Any, inside: Array, h: Array, allowed: Array | None) -> None:
        e = _exponents(s, _only(inside, q[r, :, at]), k[r, :, at], allowed, bias, h)
        # The sum divides what has K columns instead of what has N.
        new = _dot(e.astype(v.dtype), v[r, :, at], (1, 0)) / e.sum(-1, keepdims=True)
        y[r, :, at] = jnp.where(inside, new.astype(y.dtype), y[r, :, at])

    _for_each_head(s, q, mask, head, backward=False)


def _backward(
    s: _Settings,
    q: Any,
    k: Any,
    v: Any,
    dy: Any,
    dq: Any,
    dk: Any,
    dv: Any,
    mask: Any = None,
    bias: Any = None,
    dbias: Any = None,
) -> None:
    if dbias is not None:

        @pl.when(pl.program_id(0) == 0)
        def _() -> None:
            dbias[...] = jnp.zeros_like(dbias)

    def head(r: Array, at: Any, inside: Array, h: Array, allowed: Array | None) -> None:
        q_h, dy_h = _only(inside, q[r, :, at]), _only(inside, dy[r, :, at])
        e = _exponents(s, q_h, k[r, :, at], allowed, bias, h)
        w = e / e.sum(-1, keepdims=True)
        dw = _dot(dy_h, v[r, :, at], (1, 1))
        ds = w * (dw - (w * dw).sum(-1, keepdims=True))
        if allowed is not None:  # Of a query that may look at nothing the weights are not zero.
            ds = jnp.where(allowed, ds, 0)
        if dbias is not None:
            dbias[h] += ds
        ds = ds.astype(q.dtype)
        for ref, new in (
            (dq, _dot(ds, k[r, :, at], (1, 0)) * s.scale),
            (dk, _dot(ds, q_h, (0, 0)) * s.scale),
            (dv, _dot(w.astype(v.dtype), dy_h, (0, 0))),
        ):
            ref[r, :, at] = jnp.where(inside, new.astype(ref.dtype), ref[r, :, at])

    _for_each_head(s, q, mask, head, backward=True)


def _for_each_head(s: _Settings, q: Any, mask: Any, head: Callable[..., None], backward: bool) -> None:
    """Calls `head` for every row and head, with the columns that hold the head and which of them are its own."""
    rows, tokens, width = q.shape
    size = width // s.heads
    period, unroll = _period(width, s.heads), _unroll(tokens, width, s.heads, backward)
    steps, count = width // period, period // size

    def row(r: Array, _: None) -> None:
        allowed = _allowed(s, tokens, mask, r)

        def step(i: Array, _: None) -> None:
            for h in range(count):
                first, last = h * size, (h + 1) * size
                start = first // LANES * LANES
                columns = min(_up(last, LANES), period) - start
                lane = start + lax.broadcasted_iota(jnp.int32, (1, columns), 1)
                inside = (lane >= first) & (lane < last)
                offset = start if steps == 1 else pl.multiple_of(i * period + start, LANES)
                head(r, pl.ds(offset, columns), inside, i * count + h, allowed)

        lax.fori_loop(0, steps, step, None, unroll=unroll)

    lax.fori_loop(0, rows, row, None)


def _period(width: int, heads: int) -> int:
    """Columns after which a head begins at a multiple of 128 lanes again: one step of the loop over heads."""
    period = math.lcm(width // heads, LANES)
    return period if width % period == 0 else width


def _unroll(tokens: int, width: int, heads: int, backward: bool) -> int:
    period = _period(width, heads)
    steps = width // period
    scores = period * heads // width * _up(tokens, 8) * _up(tokens, LANES) * 4
    most = max(1, _scores_at_once(backward) // scores)
    return max(n for n in range(1, steps + 1) if steps % n == 0 and n <= most)


def _scores_at_once(backward: bool) -> int:
    """Bytes of scores up to which heads are computed together; the backward kernel gains only where they are tiny.

    By v5e's schedule of 197 tokens and 12 heads, cycles of a program: forward 5700 two heads at a time, 3700 all at
    once; backward 11200 and 11000.
    """
    return MiB // 4 if backward else 3 * MiB


def _exponents(
    s: _Settings,
    q: Float[Array, "N C"],
    k: Float[Array, "N C"],
    allowed: Bool[Array, "_ N"] | None,
    bias: Any,
    h: Array,
) -> Float[Array, "N N"]:
    """The weights of head `h` before they are divided by their sums; the largest of each query is one."""
    scores = _dot(q, k, (1, 1)) * s.scale
    if bias is not None:
        scores += bias[h].astype(jnp.float32)
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
    return jnp.exp(scores - scores.max(-1, keepdims=True))


def _allowed(s: _Settings, tokens: int, mask: Any, r: Array) -> Bool[Array, "_ N"] | None:
    """Which keys each query of row `r` may look at; None: all."""
    allowed = None if mask is None else mask[r].astype(jnp.int32) != 0
    if s.causal:
        query, key = (lax.broadcasted_iota(jnp.int32, (tokens, tokens), axis) for axis in (0, 1))
        allowed = query >= key if allowed is None else allowed & (query >= key)
    return allowed


def _only(inside: Bool[Array, "1 C"], x: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return jnp.where(inside, x, 0).astype(x.dtype)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Float[Array, "_ _"]:
    """Sums over axis `axes[0]` of `a` and `axes[1]` of `b`, in float32."""
    return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
