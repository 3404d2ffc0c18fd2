"""The gradient of a batch larger than memory, with every negative kept.

Each pair is compared with all others, so the loss of a batch is not a sum over its parts. First the parts are embedded
without keeping what a backward pass needs. The loss of all embeddings then gives the gradient at each embedding, and
with it the parts are embedded once more, now with their backward pass (GradCache, arXiv:2101.06983).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from lit_jax.parallel.sharding import AXES, BATCH
from lit_jax.utils.divisors import divisors
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params

READ_BY = {"images": "vision", "texts": "text"}  # Input of the model -> the tower that reads it.
PARTS = PartitionSpec(None, AXES)  # The first axis, the parts, is not split; rows are split over all devices.


class Parts(NamedTuple):
    """How many parts a batch has, and what is done with them.

    `embed(tuned, locked, inputs, key)` returns unit embeddings of images and texts, and `compare(images, texts, tuned,
    locked)` their loss. `pool(tuned, locked, name, inputs)` returns the outputs of a tower without tuned weights, which
    runs only once, for the inputs called `name` in READ_BY.
    """

    number: int
    embed: Callable[[Params, Params, dict[str, Any], Array], tuple[Array, Array]]
    pool: Callable[[Params, Params, str, Any], Array]
    compare: Callable[[Array, Array, Params, Params], Float[Array, ""]]


def accumulated(
    parts: Parts, tuned: Params, locked: Params, inputs: dict[str, Any], key: Array, mesh: Mesh
) -> tuple[Float[Array, ""], Params, tuple[Array, Array]]:
    """The loss of the whole batch, its gradient at `tuned` and its embeddings, one part after another.

    The dropout of a part depends on `key` and the part, and is the same in both passes.
    """
    inputs = _split(inputs, parts.number, mesh)
    keys = jax.vmap(lambda part: jax.random.fold_in(key, part))(jnp.arange(parts.number))

    for name, tower in READ_BY.items():
        if name in inputs and tower not in tuned:
            given, pool = inputs.pop(name), partial(parts.pool, tuned, locked, name)
            inputs[f"pooled_{name}"] = lax.map(pool, given)

    def forward(part: tuple[dict[str, Any], Array]) -> tuple[Array, Array]:
        return parts.embed(tuned, locked, *part)

    embedded = _join(lax.map(forward, (inputs, keys)), mesh)
    value, (at_images, at_texts, at_tuned) = jax.value_and_grad(
        lambda images, texts, tuned: parts.compare(images, texts, tuned, locked), argnums=(0, 1, 2)
    )(*embedded, tuned)

    def backward(
        total: Params, part: tuple[dict[str, Any], Array, tuple[Array, Array]]
    ) -> tuple[Params, None]:
        given, part_key, cotangents = part
        _, back = jax.vjp(lambda tuned: parts.embed(tuned, locked, given, part_key), tuned)
        return jax.tree.map(jnp.add, total, back(cotangents)[0]), None

    at_parts = _split((at_images, at_texts), parts.number, mesh)
    gradient, _ = lax.scan(backward, at_tuned, (inputs, keys, at_parts))
    return value, gradient, embedded


def check_micro_batch(micro_batch: int, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError unless micro-batches of this size fill the batch, with equally many rows on every device."""
    if micro_batch < 1 or batch_size % micro_batch or micro_batch % mesh.size:
        good = [n for n in divisors(batch_size) if n % mesh.size == 0]
        raise ConfigError(
            f"micro_batch={micro_batch} does not cut a batch of {batch_size} pairs on {mesh.size} devices into equal "
            f"parts: use one of {', '.join(map(str, good[-8:]))}"
        )


def _split(tree: Any, parts: int, mesh: Mesh) -> Any:
    """Rows [B ...] -> [parts, B / parts ...]; each device cuts its own rows, so that nothing is sent."""
    cut = jax.shard_map(
        lambda tree: jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), tree),
        mesh=mesh,
        in_specs=BATCH,
        out_specs=PARTS,
    )
    return cut(tree)


def _join(tree: Any, mesh: Mesh) -> Any:
    """Undoes `_split`."""
    glue = jax.shard_map(
        lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree),
        mesh=mesh,
        in_specs=PARTS,
        out_specs=BATCH,
    )
    return glue(tree)
