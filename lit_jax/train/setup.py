"""A run put together from its config: towers, locks, optimiser, state; new, or from its workdir."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from lit_jax.config import TrainConfig
from lit_jax.data.sources.registry import open_source
from lit_jax.hf import default_processor, hub, load
from lit_jax.hf import processor as processing
from lit_jax.hf.load import Loaded
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.parallel.distributed import broadcast_int
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import partition
from lit_jax.train.build import (
    DTYPES,
    bias_of,
    check_attention,
    compute_of,
    layout_of,
    optimiser_of,
    rules_of,
)
from lit_jax.train.model_description import describe, described
from lit_jax.train.state import State, init_state
from lit_jax.train.trained import checkpoints_of
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.files import check_workdir

TOKENIZER_RECORDS = 10_000  # Whose captions a tokenizer is made of.


class TrainSetup(NamedTuple):
    """Everything that training and export need. `data` is what the checkpoint says of the data, {} at the start."""

    recipe: TrainConfig
    workdir: Workdir
    module: DualEncoder
    processor: Any
    mesh: Mesh
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    state: State
    data: dict[str, Any]
    checkpoints: Checkpoints


def open_setup(recipe: TrainConfig, workdir: Workdir, *, fallback: bool = True) -> TrainSetup:
    """A new run, or the one that `workdir` holds, at its newest checkpoint that is whole.

    Raises ConfigError if the workdir holds a run of another recipe, and as the parts do; CheckpointError without
    `fallback` if the newest checkpoint is damaged.
    """
    make_mesh(recipe.mesh.data, recipe.mesh.fsdp)  # Refused before anything is written.
    check_attention(recipe.model.attention, jax.default_backend())
    check_workdir(recipe, workdir)
    checkpoints = checkpoints_of(recipe, workdir)
    if broadcast_int(checkpoints.latest() is not None):
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


def _read_towers(recipe: TrainConfig) -> Loaded:
    m = recipe.model
    partition.lock_rules(m.lock)  # A bad letter is refused before the towers are read.
    letters = dict(zip(partition.TOWERS, m.lock, strict=True))
    for tower, folder in (("vision", m.vision), ("text", m.text)):
        if not folder and letters[tower] != "u":
            raise ConfigError(
                f"config.model.{tower} is empty, and lock={m.lock!r} wants its weights: name a folder or Hub id, "
                f"or write u (from scratch) for this tower"
            )
    return load.join_towers(
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


def _processor_of(recipe: TrainConfig, config: DualEncoderConfig) -> Any:
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
        images = default_processor.image_processor(config.vision)
    if m.text:
        words = processing.load_tokenizer(hub.find(m.text, allow_pickle=m.allow_pickle))
    else:
        words = default_processor.tokenizer(config.text, captions())
    return processing.processor_class()(images, words)


def _assemble(
    recipe: TrainConfig,
    workdir: Workdir,
    loaded: Loaded,
    processor: Any,
    checkpoints: Checkpoints,
    *,
    restore: bool,
    fallback: bool = True,
) -> TrainSetup:
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
    module = load.with_compute(loaded.module, mesh=mesh)
    return TrainSetup(recipe, workdir, module, processor, mesh, schedule, tx, state, data, checkpoints)
