"""DeBERTa's attention (arXiv:2006.03654): contents attend to relative positions, and positions to contents."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.layers.attention import attend_in_full
from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.spec import Compute


def row_of(config: Any, distance: np.ndarray) -> np.ndarray:
    """The rows in the table of relative positions for query minus key: exact if near, logarithmic if far."""
    if config.position_buckets > 0:
        middle = config.position_buckets // 2
        # Everything is in single precision, as in PyTorch, since rounding decides where a bucket ends.
        off = np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(middle)
        scale = np.log(np.float32((config.farthest - 1) / middle))
        log = np.ceil(np.log(off) / scale * np.float32(middle - 1)).astype(np.int64) + middle
        distance = np.where(np.abs(distance) <= middle, distance, np.sign(distance) * log)
    return np.clip(distance + config.span, 0, 2 * config.span - 1)


def rows_of(config: Any, tokens: Any, sign: int) -> Int[Array | np.ndarray, "M"]:
    """The rows for `sign` times the offsets 1 - N to N of `aligned`; N = `tokens` can be a symbol (jax.export)."""
    if isinstance(tokens, int):
        return row_of(config, sign * np.arange(1 - tokens, tokens + 1))
    most = config.longest
    return jnp.asarray(row_of(config, sign * np.arange(1 - most, most + 1)))[most - tokens : most + tokens]


def aligned(x: Float[Array, "B H N M"]) -> Float[Array, "B H N N"]:
    """y[i, j] = x[i, N - 1 - i + j]: from columns for the offsets j - i, 1 - N to N, to columns j; M = 2 N.

    Each row is shifted, and a reshape does this for all rows at once (Transformer-XL, arXiv:1901.02860).
    """
    *batch, n, columns = x.shape
    flat = x.reshape(*batch, n * columns)[..., n - 1 : n - 1 + n * (columns - 1)]
    return flat.reshape(*batch, n, columns - 1)[..., :n]


class Attention(nn.Module):
    """Self-attention with additional scores between contents and relative positions, in both directions."""

    config: Any  # deberta.Config or deberta_v2.Config
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B 1 N N"] | None,
        relative: Float[Array, "R D"] | None,
        *,
        train: bool,
        attentions: bool,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N N"] | None]:
        c, compute, n, width = self.config, self.compute, x.shape[1], x.shape[-1]
        init = nn.initializers.normal(c.initializer_range)
        dense = partial(Dense, dtype=compute.dtype, kernel_init=init)
        heads, biases = (c.num_attention_heads, width // c.num_attention_heads), c.block.biases

        def split(name: str) -> Dense:
            return dense(heads, use_bias=name.removeprefix("pos_")[0] in biases, name=name)

        query, key, value = map(split, ("query", "key", "value"))
        # Attention divides by the root of K; each additional kind of score increases the variance of the sum further.
        scale = (1 + c.looks("c2p") + c.looks("p2c")) ** -0.5
        q, k, v = query(x) * scale, key(x), value(x)  # B N H K

        bias = None
        if relative is not None:
            relative = nn.Dropout(c.hidden_dropout_prob, deterministic=not train)(relative)
            bias = jnp.zeros((x.shape[0], c.num_attention_heads, n, n), x.dtype)
            if c.looks("c2p"):  # Rows are queries, columns keys.
                positions = (key if c.share_att_key else split("pos_key"))(relative[rows_of(c, n, -1)])
                bias += aligned(jnp.einsum("bnhk,mhk->bhnm", q, positions))
            if c.looks("p2c"):  # Rows are keys, columns queries.
                positions = (query if c.share_att_key else split("pos_query"))(relative[rows_of(c, n, 1)])
                bias += aligned(jnp.einsum("bnhk,mhk->bhnm", k * scale, positions)).swapaxes(-1, -2)
            bias *= q.shape[-1] ** -0.5

        dropout = c.attention_probs_dropout_prob if train else 0.0
        if attentions or dropout:
            y, weights = attend_in_full(q, k, v, mask, bias, nn.Dropout(dropout, deterministic=not dropout))
        else:
            y = jax.nn.dot_product_attention(q, k, v, bias, mask)
            weights = None
        return dense(width, axis=(-2, -1), name="out")(y), weights if attentions else None
