"""The computations of the Hugging Face model, compiled once for each shape."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lit_jax.models.dual_encoder import DualEncoder, unit
from lit_jax.utils.typing import Params


@partial(
    jax.jit,
    static_argnums=0,
    static_argnames=("train", "interpolate", "return_loss", "hidden_states", "attentions"),
)
def forward(
    module: DualEncoder,
    variables: Mapping[str, Params],
    texts: dict[str, jax.Array],
    images: jax.Array,
    dropout_rng: jax.Array | None,
    *,
    return_loss: bool,
    interpolate: bool,
    **options: bool,
) -> tuple:
    """Loss (or None; CLIP's or SigLIP's), logits [T B], unit embeddings of texts and images, outputs of both towers.

    `options` are those of a tower's call; `interpolate` resizes the position table of the image tower.
    """
    rngs = None if dropout_rng is None else {"dropout": dropout_rng}
    sized = {"interpolate": True} if interpolate else {}  # Otherwise each tower decides.
    image, vision = module.apply(variables, images, method="image_features", rngs=rngs, **options, **sized)
    text, text_output = module.apply(variables, texts, method="text_features", rngs=rngs, **options)
    image, text = unit(image), unit(text)
    logits = jnp.matmul(text, image.T, precision="highest") * jnp.exp(variables["params"]["logit_scale"])
    # VisionTextDualEncoderModel has no bias, whatever it was trained with.
    sigmoid = module.config.composite.sigmoid
    if sigmoid:
        logits += variables["params"]["logit_bias"]
    loss = (_sigmoid_loss if sigmoid else _softmax_loss)(logits) if return_loss else None
    return loss, logits, text, image, text_output, vision


def _softmax_loss(logits: jax.Array) -> jax.Array:
    """CLIP's: each text is the class of its image, and vice versa."""
    xent, labels = optax.softmax_cross_entropy_with_integer_labels, jnp.arange(logits.shape[0])
    return (xent(logits, labels).mean() + xent(logits.T, labels).mean()) / 2


def _sigmoid_loss(logits: jax.Array) -> jax.Array:
    """SigLIP's: each pair of a text and an image is classified as a match or not."""
    signs = 2 * jnp.eye(logits.shape[0]) - 1
    return -jax.nn.log_sigmoid(signs * logits).sum(axis=-1).mean()


@partial(jax.jit, static_argnums=0, static_argnames=("method", "train", "interpolate"))
def features(
    module: DualEncoder,
    variables: Mapping[str, Params],
    inputs: Any,
    dropout_rng: jax.Array | None,
    *,
    method: str,
    train: bool,
    interpolate: bool = False,
) -> jax.Array:
    """The projected features that `method` of the module returns, not normalised."""
    rngs = None if dropout_rng is None else {"dropout": dropout_rng}
    sized = {"interpolate": True} if interpolate else {}
    return module.apply(variables, inputs, method=method, rngs=rngs, train=train, **sized)[0]
