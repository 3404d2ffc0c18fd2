"""HBM traffic of attention on a TPU, by the compiler alone: jax.nn.dot_product_attention against row_attention.

    python benchmarks/attention_tpu.py --pairs 512 --topology v5e:2x4

Needs libtpu (pip install "jax[tpu]") and no TPU. Compiles two ViT-B layers forward, as a locked tower runs, and one
BERT-base layer of 32 tokens forward and backward, with all gradients, in bfloat16 over all chips of the topology.

Counted, for one chip: operands and results of every instruction of the optimised entry computation (a fusion and a
kernel are one instruction), without padding. Not counted: what lies in VMEM, what moves nothing (parameters, tuples,
bitcasts), the inside of a fusion. A fusion that reads a part of an operand counts all of it. XLA's cost_analysis will
not do: to it a kernel moves nothing. `temp` is the compiler's own figure of the memory beside inputs and outputs.
"""

import argparse
import math
import os
import re
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lit_jax import layers
from lit_jax.layers import Block, BlockSpec, Compute
from lit_jax.row_attention import row_attention_sharded
from lit_jax.sharding import AXES, BATCH, make_mesh

WIDTH, HEADS = 768, 12
IMAGE = BlockSpec(heads=HEADS, hidden=4 * WIDTH, norm_first=True, eps=1e-6)
TEXT = BlockSpec(heads=HEADS, hidden=4 * WIDTH, norm_first=False)
SHAPE = re.compile(r"\b(pred|[a-z]+[0-9]+[a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
STILL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "after-all"}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8}


def instructions(hlo: str) -> list[tuple[str, str, list[str], list[str]]]:
    """Name, opcode, result shapes and operand names of what the entry computation runs."""
    entry = hlo[hlo.index("\nENTRY ") :]
    found = []
    for line in entry.splitlines()[2:]:
        parts = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", line)
        if parts is None:
            break
        name, result, opcode, rest = parts.groups()
        operands = re.findall(r"%([\w.\-]+)", rest[: rest.index(")")])
        found.append((name, opcode, [m[0] for m in SHAPE.finditer(result)], operands))
    return found


def size(shape: str) -> int:
    """Bytes in HBM: none where the layout says another memory."""
    dtype, dims, layout = SHAPE.fullmatch(shape).groups()
    if layout and re.search(r"S\([1-9]", layout):
        return 0
    return BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)


def traffic(hlo: str) -> dict[str, int]:
    """Bytes that each instruction of the entry computation reads and writes in HBM."""
    rows = instructions(hlo)
    results = {name: shapes for name, _, shapes, _ in rows}
    moved = {}
    for name, opcode, shapes, operands in rows:
        if opcode in STILL or opcode.endswith("-done"):
            continue
        read = sum(size(shape) for operand in operands for shape in results[operand])
        if opcode.endswith("-start"):  # Its result names the operand once more, and what the -done returns.
            shapes = shapes[:1] if opcode == "copy-start" else shapes[1:2]
        moved[f"{opcode} {name}"] = read + sum(map(size, shapes))
    return moved


class Projection(nn.Module):
    """nn.DenseGeneral over all heads, with its params, whose result is [B N D] and never [B N H K].

    Of [B N H K] XLA makes the batch the minor axis, and then copies queries, keys and values for the kernel.
    """

    shape: tuple[int, ...]
    bias: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(0.02), self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.bias)
        return x @ kernel.reshape(width, width).astype(x.dtype) + bias.reshape(width).astype(x.dtype)


class RowAttention(layers.Attention):
    """layers.Attention by the kernel; `mesh` is set below, for the fields are those of layers.Attention."""

    mesh = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: Any = None, *, bias: Any = None, **_: Any
    ) -> tuple[jax.Array, None]:
        width, heads = x.shape[-1], self.spec.heads
        split = (heads, width // heads)
        q, k, v = (Projection((width, *split), split, name=name)(x) for name in ("query", "key", "value"))
        mask = None if mask is None else mask[:, 0]
        y = row_attention_sharded(q, k, v, mask, bias, heads=heads, mesh=RowAttention.mesh, axes=AXES)
        return Projection((*split, width), (width,), name="out")(y), None


def compiled(tower: str, kernel: bool, pairs: int, mesh: Mesh) -> Any:
    batch, whole = NamedSharding(mesh, BATCH), NamedSharding(mesh, PartitionSpec())
    spec, depth, tokens = (IMAGE, 2, 197) if tower == "image" else (TEXT, 1, 32)
    block = Block(spec, Compute(jnp.bfloat16))
    x = jax.ShapeDtypeStruct((pairs * mesh.size, tokens, WIDTH), jnp.bfloat16, sharding=batch)
    mask = jax.ShapeDtypeStruct((pairs * mesh.size, 1, 1, tokens), bool, sharding=batch)
    shapes = jax.eval_shape(
        block.init, jax.random.key(0), jax.ShapeDtypeStruct((1, tokens, WIDTH), jnp.bfloat16)
    )
    params = [jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole), shapes)] * depth

    def forward(params: Any, x: jax.Array, mask: Any) -> jax.Array:
        for layer in params:
            x, _ = block.apply(layer, x, mask)
        return x

    def backward(params: Any, x: jax.Array, mask: Any, dy: jax.Array) -> Any:
        y, pull = jax.vjp(lambda params, x: forward(params, x, mask), params, x)
        return y, pull(dy)

    RowAttention.mesh = mesh
    with mock.patch.object(layers, "Attention", RowAttention if kernel else layers.Attention):
        if tower == "image":
            return jax.jit(lambda params, x: forward(params, x, None)).lower(params, x).compile()
        return jax.jit(backward).lower(params, x, mask, x).compile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--pairs", type=int, default=512, help="of one chip")
    parser.add_argument("--tower", choices=("image", "text"), nargs="*", default=["image", "text"])
    parser.add_argument("--top", type=int, default=0, help="list so many of the largest instructions")
    args = parser.parse_args()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # There is no TPU to ask.
    devices = topologies.get_topology_desc(topology_name=args.topology, platform="tpu").devices
    mesh = make_mesh(devices=devices)
    print(f"{args.topology}, {args.pairs} pairs a chip, bfloat16; GB of one chip")
    for tower in args.tower:
        for kernel in (False, True):
            done = compiled(tower, kernel, args.pairs, mesh)
            moved = traffic(done.as_text())
            what = "2 layers forward" if tower == "image" else "1 layer forward and backward"
            temp = done.memory_analysis().temp_size_in_bytes
            name = "row_attention" if kernel else "XLA"
            print(f"{tower}, {what}, {name:13}: HBM {sum(moved.values()) / 1e9:6.2f}  temp {temp / 1e9:5.2f}")
            for instruction in sorted(moved, key=moved.get, reverse=True)[: args.top]:
                print(f"    {moved[instruction] / 1e9:6.3f}  {instruction}")


if __name__ == "__main__":
    main()
