"""Ways to multiply unit vectors, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from lit_jax.losses import exact, rounded
from lit_jax.losses.exact import Pair


class Arithmetic(NamedTuple):
    """One way to multiply. The last argument of `split` and `weighted_sums` is Centres if `centred`, else None."""

    split: Callable[[Array, Any], Any]  # [n E] -> what the next two functions take.
    similarities: Callable[[Any, Any], Pair]  # Each row with each row of the other side, [n m].
    row_similarities: Callable[[Any, Any], Pair]  # Each row with the same row of the other side, [n].
    weighted_sums: Callable[[Array, Array, Any], Array]  # [n k] @ [k E].
    centred: bool = False


def _split(x: Float[Array, "n E"], centres: None) -> Pair:
    return exact.split(x)


def _weighted_sums(
    weights: Float[Array, "n k"], x: Float[Array, "k E"], centres: None
) -> Float[Array, "n E"]:
    return exact.dot(weights, x)


# "float32" and "split" give the same value. "split" takes fewer products where a device multiplies bfloat16 numbers.
PRECISIONS = {
    "float32": Arithmetic(_split, exact.similarities, exact.row_similarities, _weighted_sums),
    "split": Arithmetic(_split, exact.similarities_of_bfloat16, exact.row_similarities, _weighted_sums),
    "bfloat16": Arithmetic(
        rounded.split,
        rounded.similarities,
        rounded.row_similarities,
        rounded.weighted_sums,
        centred=True,
    ),
}
