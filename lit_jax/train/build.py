"""From a config to the parts of a training step: arithmetic, loss, optimiser, lock rules, layout."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lit_jax.config import ModelConfig, TrainConfig
from lit_jax.models.layers.spec import REMAT, Compute
from lit_jax.parallel import sharding
from lit_jax.train import optim, partition
from lit_jax.train.grad_cache import check_micro_batch
from lit_jax.utils import path_rules
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ATTENTION = ("auto", "rows", "splash", "xla", "cudnn")  # See spec.Compute.
PLATFORMS = {
    "cudnn": ("gpu",),
    "rows": ("tpu", "cpu"),
    "splash": ("tpu", "cpu"),
}  # On a CPU kernels are interpreted.
SIGLIP_BIAS = -10.0  # arXiv:2303.15343


def compute_of(model: ModelConfig, platform: str | None = None) -> Compute:
    """How a recipe's model is computed, on this machine's platform if no other is named.

    Raises ConfigError for a dtype that is not one of DTYPES or "auto", and for an unknown `remat`.
    """
    for name, value in (("dtype", model.dtype), ("locked_dtype", model.locked_dtype)):
        if value not in DTYPES and not (name == "dtype" and value == "auto"):
            raise ConfigError(f"config.model.{name} is {value!r}; wanted one of {', '.join(DTYPES)}")
    if model.remat not in REMAT or model.unroll < 1 or model.attention not in ATTENTION:
        raise ConfigError(
            f"config.model.remat is {model.remat!r}, unroll {model.unroll} and attention {model.attention!r}; "
            f"wanted one of {', '.join(REMAT)}, at least 1, and one of {', '.join(ATTENTION)}"
        )
    auto = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    dtype = DTYPES[auto if model.dtype == "auto" else model.dtype]
    attention: Any = model.attention
    return Compute(dtype=dtype, remat=model.remat, unroll=model.unroll, attention=attention)


def check_attention(attention: str, platform: str) -> None:
    """Raises ConfigError for an implementation that the platform does not have."""
    if platform not in PLATFORMS.get(attention, (platform,)):
        raise ConfigError(
            f"config.model.attention is {attention!r}, which is not for a {platform}; wanted auto, or xla"
        )


def check_batches(recipe: TrainConfig, mesh: Mesh) -> None:
    """Raises ConfigError for a batch that the mesh does not divide, and for parts that do not divide it."""
    sharding.check_batch(recipe.batch_size, mesh)
    if recipe.micro_batch:
        check_micro_batch(recipe.micro_batch, recipe.batch_size, mesh)
        parts = recipe.batch_size // recipe.micro_batch
        log.info("a batch of %d pairs in %d parts of %d", recipe.batch_size, parts, recipe.micro_batch)


def trained(recipe: TrainConfig) -> list[str]:
    """The towers that use dropout: a locked one runs in eval mode, also where a new pooler of it is trained."""
    return [t for t, letter in zip(partition.TOWERS, recipe.model.lock, strict=True) if letter != "L"]


def bias_of(recipe: TrainConfig) -> float | None:
    """Where the sigmoid loss's bias starts; the softmax has none."""
    given = recipe.model.logit_bias_init
    return (SIGLIP_BIAS if given is None else given) if recipe.loss == "sigmoid" else None


def loss_of(recipe: TrainConfig) -> dict[str, Any]:
    """What `make_train_step` is to know of the loss, and what is to be seen of it."""
    return dict(
        loss=recipe.loss,
        how=recipe.loss_how,
        chunk=recipe.loss_chunk or None,
        label_smoothing=recipe.label_smoothing,
        mask_duplicates=recipe.mask_duplicates,
        max_logit_scale=recipe.model.max_logit_scale,
        micro_batch=recipe.micro_batch or None,
        monitor_every=recipe.monitor_every,
    )


def optimiser_of(recipe: TrainConfig) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate by step, and the optimiser. Raises ConfigError."""
    o = recipe.optim
    schedule = optim.make_schedule(
        o.schedule, peak_lr=o.peak_lr, steps=recipe.steps, warmup_steps=o.warmup_steps, end_lr=o.end_lr
    )
    return schedule, optim.make_optimizer(
        schedule=schedule,
        name=o.name,
        mu_dtype=o.mu_dtype,
        weight_decay=o.weight_decay,
        clip_norm=o.clip_norm,
        b1=o.b1,
        b2=o.b2,
        eps=o.eps,
        lr_multipliers=o.lr_multipliers,
    )


def rules_of(recipe: TrainConfig, params: Params, fresh: tuple[str, ...]) -> path_rules.Rules:
    """What is locked and what is tuned. Raises ConfigError for a pattern that matches nothing."""
    m, o = recipe.model, recipe.optim
    first = m.lock_rules
    if m.vision_pooling == "cls":
        first = (*first, ("vision/pooler/.*", "lock"))  # An identity, else the token were not raw for long.
    path_rules.check_patterns([pattern for pattern, _ in m.lock_rules], params, "model.lock_rules")
    path_rules.check_patterns([pattern for pattern, _ in o.lr_multipliers], params, "optim.lr_multipliers")
    return partition.lock_rules(m.lock, first=first, fresh=fresh)


def layout_of(recipe: TrainConfig, params: Params) -> sharding.Rules:
    """What lies over fsdp and what on every device. Raises ConfigError for a pattern that matches nothing."""
    first = recipe.mesh.fsdp_rules
    path_rules.check_patterns([pattern for pattern, _ in first], params, "mesh.fsdp_rules")
    return sharding.fsdp_rules(first)
