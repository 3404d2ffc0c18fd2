"""Token ids -> vectors: words, token types and positions, summed and normed."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lit_jax.models.layers.dense import Dense
from lit_jax.models.layers.norm import LayerNorm
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Tokens:
    """How a tower embeds tokens; every field changes the numbers or the params."""

    words: int
    positions: int  # Rows of the position table; 0 for towers without one (rotary or relative positions).
    width: int
    types: int = 0
    scale: float = 1.0  # A factor of the word embeddings.
    cls: bool = False  # A learned vector after the words, with a position of its own (CoCa).
    tasks: int = 0  # Task types (ERNIE); dual encoders use only the first.
    norm: bool = True
    norm_bias: bool = True
    eps: float = 1e-12
    project: int | None = None  # The width of the layers if it differs from `width` (ALBERT, ELECTRA).
    dropout: float = 0.0
    dropout_first: bool = False  # Dropout comes before the norm (BigBird).
    init_std: float = 0.02


class TokenEmbed(nn.Module):
    """The sum of a token's embeddings, normed and projected if the tower does so."""

    spec: Tokens
    compute: Compute

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B N"],
        token_type_ids: Int[Array, "B N"] | None,
        position_ids: Int[Array, "... M"],
        waves: Float[Array, "... M D"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "B M D"]:
        """`token_type_ids=None` means all 0. Towers without token types ignore them. M is N, or N + 1 with a `cls`.

        `waves` are position embeddings that are computed, not learned.
        """
        spec, dtype = self.spec, self.compute.dtype
        init = nn.initializers.normal(spec.init_std)

        def embed(rows: int, name: str, ids: Array) -> Array:
            return nn.Embed(rows, spec.width, embedding_init=init, name=name)(ids)

        x = embed(spec.words, "word", input_ids)
        if spec.scale != 1:
            x = x * jnp.float32(spec.scale)
        if spec.types:
            types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + embed(spec.types, "token_type", types)
        if spec.cls:
            cls = self.param("cls", init, (1, 1, spec.width))
            x = jnp.concatenate([x, jnp.broadcast_to(cls, (x.shape[0], 1, spec.width))], axis=1)
        if spec.tasks:
            x = x + embed(spec.tasks, "task_type", jnp.zeros_like(input_ids))
        if spec.positions:
            x = x + embed(spec.positions, "position", position_ids)
        if waves is not None:
            x = x + waves
        # Cast only here: in bfloat16 the sum of a row's gradients over all its tokens would lose most digits.
        x = x.astype(dtype)
        drop = nn.Dropout(spec.dropout, deterministic=not train)
        if spec.dropout_first:
            x = drop(x)
        if spec.norm:
            on_gpu = self.compute.on_gpu
            norm = LayerNorm(spec.eps, dtype=dtype, use_bias=spec.norm_bias, on_gpu=on_gpu, name="norm")
            x = norm(x)
        if not spec.dropout_first:
            x = drop(x)
        if spec.project is not None:
            x = Dense(spec.project, dtype=dtype, kernel_init=init, name="project")(x)
        return x


def key_mask(attention_mask: Array | None) -> Bool[Array, "B 1 1 N"] | None:
    """[B N], nonzero where a token is real -> the keys that every query attends to."""
    return None if attention_mask is None else (attention_mask != 0)[:, None, None, :]


def check_length(input_ids: Int[Array, "B N"], longest: int) -> None:
    """Raises ConfigError for more tokens than the tower has positions for."""
    tokens = input_ids.shape[1]
    if tokens > longest:
        raise ConfigError(
            f"texts have {tokens} tokens; this tower has positions for {longest}; truncate when tokenizing"
        )
