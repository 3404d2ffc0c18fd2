"""HBM traffic of attention on a TPU that need not be present: XLA's own against the whole-row kernel, by layer.

    python benchmarks/attention_tpu.py --topology v5e:2x4 --pairs 512

This needs libtpu (pip install 'lit_jax[tpu]') but no TPU: the programs are compiled ahead of time, and every
instruction's operands and results in HBM are counted in the program's text (`lit_jax/tools/plan/hlo.py`). ViT-B's image
layers run forward, BERT's text layers forward and backward, in bfloat16.
"""

import argparse
import os

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from lit_jax.models.layers.blocks import Block, scan_layers
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.parallel.sharding import BATCH, make_mesh
from lit_jax.tools.plan.hlo import Program
from lit_jax.utils.console import table

WIDTH = 768
TOWERS = {  # Number of layers, number of tokens, block.
    "image, forward": (2, 197, BlockSpec(heads=12, hidden=3072, norm_first=True)),
    "text, forward and backward": (2, 32, BlockSpec(heads=12, hidden=3072, norm_first=False)),
}


def compiled(name: str, attention: str, pairs: int, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    depth, tokens, spec = TOWERS[name]
    compute = Compute(jnp.bfloat16, unroll=depth, attention=attention, mesh=mesh)

    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
            return scan_layers(Block(spec, compute, name="layers"), depth, x, mask)[0]

    rows, whole = NamedSharding(mesh, BATCH), NamedSharding(mesh, PartitionSpec())
    batch = pairs * mesh.size
    x = jax.ShapeDtypeStruct((batch, tokens, WIDTH), jnp.bfloat16, sharding=rows)
    text = name.startswith("text")
    mask = jax.ShapeDtypeStruct((batch, 1, 1, tokens), jnp.bool_, sharding=rows) if text else None
    shapes = jax.eval_shape(Tower().init, jax.random.key(0), x, mask)
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), shapes)

    def forward(params: dict, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return Tower().apply(params, x, mask)

    def loss(params: dict, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return forward(params, x, mask).astype(jnp.float32).sum()

    step = jax.grad(loss, argnums=(0, 1)) if text else forward
    return jax.jit(step).lower(params, x, mask).compile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x4", help="TPU slice (default: v5e:2x4)")
    parser.add_argument("--pairs", type=int, default=512, help="pairs per chip (default: 512)")
    options = parser.parse_args()
    topology = topologies.get_topology_desc(topology_name=options.topology, platform="tpu")
    mesh = make_mesh(-1, 1, list(topology.devices))
    rows = []
    for name, (depth, tokens, _) in TOWERS.items():
        for attention in ("xla", "rows"):
            program = compiled(name, attention, options.pairs, mesh)
            moved = sum(Program(program.as_text()).traffic().values())
            kept = program.memory_analysis().temp_size_in_bytes
            rows.append(
                (f"{depth} layers {name}", str(tokens), attention, f"{moved / 1e9:.2f}", f"{kept / 1e9:.2f}")
            )
    print(f"{options.topology}, {options.pairs} pairs per chip; figures per chip\n")
    print(table(("", "tokens", "attention", "traffic GB", "temporaries GB"), rows))


if __name__ == "__main__":
    main()
