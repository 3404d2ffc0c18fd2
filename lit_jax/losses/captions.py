"""The loss of pictures that have several captions each in a step."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lit_jax.losses.contrastive import (
    ITS_OWN,
    LossConfig,
    Targets,
    contrastive_loss,
    mean_of_pairs,
    pair_losses,
)
from lit_jax.losses.exact import row_similarities, split
from lit_jax.losses.ring import Axis
from lit_jax.utils.errors import ConfigError

POSITIVES = ("one", "all")


def captions_loss(
    config: LossConfig,
    images: Float[Array, "b E"],
    texts: Float[Array, "b K E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    targets: Targets = ITS_OWN,
    *,
    positives: str,
    axis: Axis,
) -> Float[Array, ""]:
    """The loss of B pictures with K captions each, in nats per picture; otherwise as `contrastive_loss`.

    - `positives="one"`: caption k of each picture is compared with caption k of the other pictures, for each k by
      itself. The loss is the mean of the K losses (SAIL, arXiv:2412.04616, which adds them up).
    - `positives="all"`: a picture is compared with the captions of all pictures, and all of its own are right, in equal
      parts (supervised contrastive learning, arXiv:2004.11362, equation 2). A caption is compared with all pictures.
      The sigmoid loss asks these questions anyway, and is the same as with "one".

    `targets.groups` are [b], or [b, K] for ids of the captions; column k holds the ids for the k-th comparison.
    Raises ConfigError as `contrastive_loss`, for other `positives`, and for label smoothing or soft targets of the
    softmax loss with "all".
    """
    if positives not in POSITIVES:
        raise ConfigError(f"positives={positives!r} is unknown: wanted one of {', '.join(POSITIVES)}")
    several = positives == "all" and config.kind == "softmax"
    if several and (config.label_smoothing or targets.soft is not None):
        raise ConfigError(
            "positives='all' spreads the targets over the captions itself: wanted label_smoothing=0 and no soft "
            "targets, or positives='one'"
        )
    each = texts.swapaxes(0, 1)  # K b E
    ids = tuple(ids.T if ids.ndim == 2 else ids for ids in targets.groups)

    def of(number: Any) -> tuple[Array, Targets]:
        groups = tuple(x[number] if x.ndim == 2 else x for x in ids)
        return each[number], targets._replace(groups=groups)

    numbers = jnp.arange(len(each))
    if not several:
        compare = partial(contrastive_loss, config, images, axis=axis)
        return lax.map(lambda k: compare(of(k)[0], scale, bias, of(k)[1]), numbers).mean()

    valid = targets.valid
    if valid is not None:  # As in `pair_losses`.
        images, each = jnp.where(valid[:, None], images, 0), jnp.where(valid[:, None], each, 0)
    compared = partial(pair_losses, config, images, axis=axis)
    by_image, by_text = lax.map(lambda k: compared(of(k)[0], scale, bias, of(k)[1]), numbers)  # K b, halves
    mine = split(images)
    own = [row_similarities(mine, split(text)) for text in each]
    nearer = jnp.stack([(pair - own[0]).rounded() for pair in own]) * scale
    # The sum over all captions is the sum over k of the sums over the k-th captions; `by_image` holds -log p / 2, so
    # that `nearer + 2 * by_image` is the log of such a sum, relative to the first caption of the picture.
    rows = jax.nn.logsumexp(nearer + 2 * by_image, axis=0) - nearer.mean(0)
    if valid is not None:
        rows = jnp.where(valid, rows, 0)
    return mean_of_pairs(rows / 2 + by_text.mean(0), valid, axis)
