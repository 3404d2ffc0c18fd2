"""The losses of prefixes of the embeddings, besides that of whole ones (Matryoshka learning, arXiv:2205.13147)."""

from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lit_jax.models.dual_encoder import unit
from lit_jax.utils.errors import ConfigError

Loss = Callable[[Array, Array], Float[Array, ""]]


def loss_of_prefixes(
    loss: Loss, images: Float[Array, "B E"], texts: Float[Array, "*B E"], widths: Sequence[int]
) -> Float[Array, ""]:
    """The sum over `widths` of the `loss` of the first numbers of both sides, normalised to unit length again.

    Each width has weight 1, as by default in sentence-transformers. Without `widths` it is the loss of whole
    embeddings; otherwise these count only if their width is in `widths`. `images` and `texts` are unit vectors; `texts`
    are [B K E] with K texts for each image.
    """
    if not widths:
        return loss(images, texts)
    losses = []
    for width in widths:
        with jax.named_scope(f"first_{width}"):
            losses.append(loss(first(images, width), first(texts, width)))
    return reduce(jnp.add, losses)


def first(embeddings: Float[Array, "*B E"], width: int) -> Float[Array, "*B e"]:
    """The first `width` numbers of unit vectors, normalised again; vectors of this width stay as they are."""
    return embeddings if width == embeddings.shape[-1] else unit(embeddings[..., :width])


def check_widths(widths: Sequence[int], width: int) -> None:
    """Raises ConfigError if one of the ascending `widths` is larger than the `width` of the embeddings."""
    if widths and widths[-1] > width:
        raise ConfigError(
            f"config.model.matryoshka={tuple(widths)} ends with {widths[-1]}, and the embeddings of this model have "
            f"{width} numbers; wanted at most {width}"
        )
