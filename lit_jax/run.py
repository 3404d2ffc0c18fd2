"""A run put together from its recipe: towers, locks, optimiser, state; new, or from its workdir."""

import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lit_jax import hub, optim, pretrained, processing, recipe, scratch, sharding
from lit_jax.accumulate import check_micro_batch
from lit_jax.bucket import Workdir
from lit_jax.checkpoints import Checkpoints
from lit_jax.data import open_source
from lit_jax.distributed import agreed
from lit_jax.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.errors import ConfigError, DataError
from lit_jax.pretrained import Loaded
from lit_jax.recipe import Recipe
from lit_jax.sharding import make_mesh
from lit_jax.spec import REMAT, Compute
from lit_jax.state import State, init_state
from lit_jax.typing import Params
from lit_jax.workdir import check_workdir, describe, described, read_recipe

log = logging.getLogger(__name__)

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ATTENTION = ("auto", "rows", "splash", "xla", "cudnn")  # See spec.Compute.
PLATFORMS = {
    "cudnn": ("gpu",),
    "rows": ("tpu", "cpu"),
    "splash": ("tpu", "cpu"),
}  # On a CPU kernels are interpreted.
SIGLIP_BIAS = -10.0  # arXiv:2303.15343
TOKENIZER_RECORDS = 10_000  # Whose captions a tokenizer is made of.


class Run(NamedTuple):
    """Everything that training and export need. `data` is what the checkpoint says of the data, {} at the start."""

    recipe: Recipe
    workdir: Workdir
    module: DualEncoder
    processor: Any
    mesh: Mesh
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    state: State
    data: dict[str, Any]
    checkpoints: Checkpoints


def open_run(recipe: Recipe, workdir: Workdir, *, fallback: bool = True) -> Run:
    """A new run, or the one that `workdir` holds, at its newest checkpoint that is whole.

    Raises ConfigError if the workdir holds a run of another recipe, and as the parts do; CheckpointError without
    `fallback` if the newest checkpoint is damaged.
    """
    make_mesh(recipe.mesh.data, recipe.mesh.fsdp)  # Refused before anything is written.
    check_attention(recipe.model.attention, jax.default_backend())
    check_workdir(recipe, workdir)
    checkpoints = checkpoints_of(recipe, workdir)
    if agreed(checkpoints.latest() is not None):
        return _assemble(
            recipe,
            workdir,
            *described(workdir, compute_of(recipe.model)),
            checkpoints,
            restore=True,
            fallback=fallback,
        )
    loaded = _read_towers(recipe)
    processor = _processor_of(recipe, loaded.module.config)
    run = _assemble(recipe, workdir, loaded, processor, checkpoints, restore=False)
    describe(workdir, loaded, processor)
    return run


class Trained(NamedTuple):
    """What a run has come to: its model at the newest checkpoint, params as float32 numpy arrays."""

    recipe: Recipe
    module: DualEncoder
    processor: Any
    params: Params
    step: int
    tuned: int  # Of all parameters, those that training moves.


def checkpoints_of(recipe: Recipe, workdir: Workdir) -> Checkpoints:
    """Where a run of this recipe keeps its states. Raises ConfigError."""
    return Checkpoints(
        str(workdir),
        save_every=recipe.save_every,
        keep=recipe.keep,
        keep_best=recipe.keep_best,
        best_metric=recipe.best_metric,
        best_mode=recipe.best_mode,
    )


def read_run(workdir: Workdir, *, step: int | None = None) -> Trained:
    """The newest checkpoint of `workdir` that is whole, or that of `step`. Raises CheckpointError."""
    found = read_recipe(workdir)
    with closing(checkpoints_of(found, workdir)) as checkpoints:
        saved = checkpoints.read(step=step)
    loaded, processor = described(workdir, compute_of(found.model))
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), optim.merge(saved.tuned, saved.locked))
    tuned = sum(leaf.size for leaf in jax.tree.leaves(saved.tuned))
    return Trained(found, loaded.module, processor, params, saved.step, tuned)


def compute_of(model: recipe.Model, platform: str | None = None) -> Compute:
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


def check_batches(recipe: Recipe, mesh: Mesh) -> None:
    """Raises ConfigError for a batch that the mesh does not divide, and for parts that do not divide it."""
    sharding.check_batch(recipe.batch_size, mesh)
    if recipe.micro_batch:
        check_micro_batch(recipe.micro_batch, recipe.batch_size, mesh)
        parts = recipe.batch_size // recipe.micro_batch
        log.info("a batch of %d pairs in %d parts of %d", recipe.batch_size, parts, recipe.micro_batch)


def trained(recipe: Recipe) -> list[str]:
    """The towers that use dropout: a locked one runs in eval mode, also where a new pooler of it is trained."""
    return [t for t, letter in zip(optim.TOWERS, recipe.model.lock, strict=True) if letter != "L"]


def bias_of(recipe: Recipe) -> float | None:
    """Where the sigmoid loss's bias starts; the softmax has none."""
    given = recipe.model.logit_bias_init
    return (SIGLIP_BIAS if given is None else given) if recipe.loss == "sigmoid" else None


def loss_of(recipe: Recipe) -> dict[str, Any]:
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


def optimiser_of(recipe: Recipe) -> tuple[optax.Schedule, optax.GradientTransformation]:
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


def rules_of(recipe: Recipe, params: Params, fresh: tuple[str, ...]) -> optim.Rules:
    """What is locked and what is tuned. Raises ConfigError for a pattern that matches nothing."""
    m, o = recipe.model, recipe.optim
    first = m.lock_rules
    if m.vision_pooling == "cls":
        first = (*first, ("vision/pooler/.*", "lock"))  # An identity, else the token were not raw for long.
    optim.check_patterns([pattern for pattern, _ in m.lock_rules], params, "model.lock_rules")
    optim.check_patterns([pattern for pattern, _ in o.lr_multipliers], params, "optim.lr_multipliers")
    return optim.lock_rules(m.lock, first=first, fresh=fresh)


def layout_of(recipe: Recipe, params: Params) -> sharding.Rules:
    """What lies over fsdp and what on every device. Raises ConfigError for a pattern that matches nothing."""
    first = recipe.mesh.fsdp_rules
    optim.check_patterns([pattern for pattern, _ in first], params, "mesh.fsdp_rules")
    return sharding.fsdp_rules(first)


def _read_towers(recipe: Recipe) -> Loaded:
    m = recipe.model
    optim.lock_rules(m.lock)  # A bad letter is refused before the towers are read.
    letters = dict(zip(optim.TOWERS, m.lock, strict=True))
    for tower, folder in (("vision", m.vision), ("text", m.text)):
        if not folder and letters[tower] != "u":
            raise ConfigError(
                f"config.model.{tower} is empty, and lock={m.lock!r} wants its weights: name a folder or Hub id, "
                f"or write u (from scratch) for this tower"
            )
    return pretrained.join_towers(
        m.vision,
        m.text,
        projection_dim=m.projection_dim,
        logit_scale_init_value=m.logit_scale_init,
        logit_bias_init_value=bias_of(recipe),
        vision_overrides=m.vision_config,
        text_overrides=m.text_config,
        vision_pooling=m.vision_pooling,
        text_pooling=m.text_pooling,
        allow_pickle=m.allow_pickle,
        scratch=tuple(tower for tower, letter in letters.items() if letter == "u"),
        seed=recipe.seed,
        compute=compute_of(m),
    )


def _processor_of(recipe: Recipe, config: DualEncoderConfig) -> Any:
    """The processors of the towers' folders; of a tower without one what its numbers and the captions make."""
    m = recipe.model

    def captions() -> Iterator[str]:
        source = open_source(recipe.data.train)
        for i in range(min(len(source), TOKENIZER_RECORDS)):
            with suppress(DataError):  # Broken records are the pipeline's to tell of.
                yield from source[i]["captions"]

    images: Any
    if m.vision:
        images = processing.load_image_processor(hub.find(m.vision, allow_pickle=m.allow_pickle))
    else:
        images = scratch.image_processor(config.vision)
    if m.text:
        words = processing.load_tokenizer(hub.find(m.text, allow_pickle=m.allow_pickle))
    else:
        words = scratch.tokenizer(config.text, captions())
    return processing.processor_class()(images, words)


def _assemble(
    recipe: Recipe,
    workdir: Workdir,
    loaded: Loaded,
    processor: Any,
    checkpoints: Checkpoints,
    *,
    restore: bool,
    fallback: bool = True,
) -> Run:
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.fsdp)
    rules = rules_of(recipe, loaded.params, loaded.fresh)
    schedule, tx = optimiser_of(recipe)
    state = init_state(
        loaded.params,
        rules,
        tx,
        mesh,
        locked_dtype=DTYPES[recipe.model.locked_dtype],
        layout=layout_of(recipe, loaded.params),
    )
    data: dict[str, Any] = {}
    if restore:
        state, data = checkpoints.restore(state, fallback=fallback)
    module = pretrained.with_compute(loaded.module, mesh=mesh)
    return Run(recipe, workdir, module, processor, mesh, schedule, tx, state, data, checkpoints)
