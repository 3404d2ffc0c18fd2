"""From a config to the parts of training: mesh, arithmetic, locks, optimiser, layout and the step.

`loop` and `tools/plan` both call `build_training`, so that a plan counts exactly what a run computes.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lit_jax.config import DataConfig, ModelConfig, TrainConfig
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.models import heads
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.layers import norm
from lit_jax.models.layers.pooling import POOLED_ONLY
from lit_jax.models.layers.spec import Compute
from lit_jax.parallel.sharding import Rules as Layout
from lit_jax.parallel.sharding import check_batch, fsdp_rules, make_mesh
from lit_jax.train.grad_cache import check_micro_batch
from lit_jax.train.layer_rows import all_paths
from lit_jax.train.matryoshka import check_widths
from lit_jax.train.optim import make_optimizer, make_schedule
from lit_jax.train.packing import check_shares_rows
from lit_jax.train.partition import lock_rules
from lit_jax.train.train_step import Step, make_train_step
from lit_jax.utils.device_errors import guarded_transfers
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.path_rules import Rules, check_patterns
from lit_jax.utils.typing import Params

log = logging.getLogger(__name__)

KEPT = 4  # The number of compiled steps that are kept.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PLATFORMS = {  # Where attention kernels run; other values run everywhere. CPUs interpret the kernels.
    "cudnn": ("gpu",),
    "rows": ("tpu", "cpu"),
    "splash": ("tpu", "cpu"),
}
# Settings of JAX without which a step does not run, or learns something else: random numbers depend on the last two.
SETTINGS = {
    "jax_disable_jit": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}
SIGLIP_BIAS = -10.0  # arXiv:2303.15343


class Training(NamedTuple):
    """The parts of training that follow from a config, a model and a mesh."""

    schedule: optax.Schedule
    tx: optax.GradientTransformation
    locks: Rules  # Parameter path -> "lock" or "tune".
    layout: Layout
    locked_dtype: DTypeLike
    step: Step


def build_training(
    config: TrainConfig,
    module: DualEncoder,
    params: Params,
    mesh: Mesh,
    pixels: PixelNormalizer | None = None,
    fresh: tuple[str, ...] = (),
) -> Training:
    """The optimiser, the lock rules and the train step of `module`, which computes on `mesh`.

    Only the paths of `params` are used, so they can be shapes; `fresh` are the paths that were in no checkpoint.
    Raises ConfigError for a pattern that matches no parameter, for Matryoshka widths larger than the embeddings', and
    if texts are configured to share rows of a text tower that does not support it.
    """
    check_rules(config, params)
    check_widths(config.model.matryoshka, module.config.width)
    check_shares_rows(config.model.text_rows, module.config.text_type)
    none: dict[str, Any] = {f"{tower}{part}": {} for tower in TOWERS for part in ("_config", "_head_config")}
    towers = dataclasses.replace(config.model, vision="", text="", text_prompt="", **none)
    data = DataConfig(
        "", text_length=config.data.text_length, captions_per_image=config.data.captions_per_image
    )
    same = dataclasses.replace(config, model=towers, data=data)
    schedule, tx, step = step_of(module, mesh, same, pixels)
    return Training(
        schedule,
        tx,
        locks_of(config.model, fresh),
        fsdp_rules(config.mesh.fsdp_rules),
        DTYPES[config.model.locked_dtype],
        step,
    )


@functools.lru_cache(maxsize=KEPT)
def step_of(
    module: DualEncoder, mesh: Mesh, config: TrainConfig, pixels: PixelNormalizer | None
) -> tuple[optax.Schedule, optax.GradientTransformation, Step]:
    """Returns the same step for equal arguments, so that a run resumed in the same process compiles it only once.

    `config` names no folders, since they do not change the step.
    """
    schedule = make_schedule(config.optim, config.steps)
    tx = make_optimizer(config.optim, schedule)
    return schedule, tx, make_train_step(module, tx, mesh, config, pixels)


def check_rules(config: TrainConfig, params: Params) -> None:
    """Raises ConfigError for a pattern of a config that matches none of the paths of `params`."""
    leaves = traverse_util.flatten_dict(params, sep="/")
    for what, rules, paths in (
        ("model.lock_rules", config.model.lock_rules, all_paths(leaves)),
        ("optim.lr_multipliers", config.optim.lr_multipliers, list(leaves)),
        ("mesh.fsdp_rules", config.mesh.fsdp_rules, list(leaves)),
    ):
        check_patterns([pattern for pattern, _ in rules], paths, what)


def locks_of(model: ModelConfig, fresh: tuple[str, ...] = ()) -> Rules:
    """The rules for what is locked and what is tuned."""
    first = [(norm.STATISTICS, "lock"), *model.lock_rules]  # Batch norm statistics are always locked.
    if model.vision_pooling == "cls":  # The pooler is an identity; tuned, it would change the token.
        first.append((r"vision/pooler(_norm)?/.*", "lock"))
    elif model.vision_pooling != "pooler":
        first.append((f"vision/{POOLED_ONLY}", "lock"))
    if model.text_pooling not in ("pooler", "tanh"):
        first.append((f"text/{POOLED_ONLY}", "lock"))
    first.append((f"({'|'.join(heads.NAMES.values())})/({'|'.join(heads.STATISTICS)})", "lock"))
    return lock_rules(model.lock_towers, first=first, fresh=fresh)


def compute_of(model: ModelConfig, platform: str | None = None) -> Compute:
    """How a config's model is computed, on this machine's platform unless another is named."""
    auto = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    dtype = DTYPES[auto if model.dtype == "auto" else model.dtype]
    attention: Any = model.attention
    return Compute(
        dtype=dtype, remat=model.remat, unroll=model.unroll, attention=attention, text_rows=model.text_rows
    )


def mesh_of(config: TrainConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (default: all of this run).

    Raises ConfigError for a mesh, a batch, a micro-batch or an attention kernel that does not suit them, if JAX
    computes with 64 bits, and for other SETTINGS.
    """
    if jnp.result_type(float) == jnp.float64:
        raise ConfigError("JAX_ENABLE_X64 is on, but a step computes with at most 32 bits; unset it")
    for name, wanted in SETTINGS.items():
        if (value := jax.config.values.get(name, wanted)) != wanted:
            raise ConfigError(f"{name.upper()} is {value!s}, but a run needs {wanted!s}; unset it")
    if name := guarded_transfers():
        raise ConfigError(
            f"{name} is {jax.config.values[name.lower()]}, but a run moves arrays between host and devices; unset it"
        )
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    platform, attention = mesh.devices.flat[0].platform, config.model.attention
    if platform not in PLATFORMS.get(attention, (platform,)):
        raise ConfigError(
            f"config.model.attention is {attention!r}, which does not run on a {platform}; wanted auto or xla"
        )
    check_batch(config.batch_size, mesh)
    rows, chunk = config.batch_size // mesh.size, config.loss_chunk
    if config.loss_how == "ring" and 0 < chunk < rows and rows % chunk:
        raise ConfigError(
            f"config.loss_chunk={chunk} does not divide the {rows} texts of each of {mesh.size} devices that "
            f"loss_how='ring' compares; wanted a divisor of {rows}"
        )
    if config.micro_batch:
        check_micro_batch(config.micro_batch, config.batch_size, mesh)
        parts = config.batch_size // config.micro_batch
        log.info("a batch of %d pairs in %d parts of %d", config.batch_size, parts, config.micro_batch)
    return mesh


def bias_of(config: TrainConfig) -> float | None:
    """The initial logit bias of the sigmoid loss; None for the softmax loss."""
    given = config.model.logit_bias_init
    return (SIGLIP_BIAS if given is None else given) if config.loss == "sigmoid" else None
