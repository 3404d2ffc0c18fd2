"""A run assembled from its config: towers, locks, optimiser, state; new, or from its workdir."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.sharding import Mesh

from lit_jax.config import TrainConfig
from lit_jax.data.bad_records import in_words
from lit_jax.data.captions import usable_captions
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_processor import pixels_of
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.data.transforms.tokenizer import makes_mask, set_prompt
from lit_jax.hf import default_processor, hub, join, load
from lit_jax.hf import processor as processing
from lit_jax.hf.image_processors import set_image_size
from lit_jax.hf.load import Loaded
from lit_jax.hf.text_length import positions_of
from lit_jax.models.composites import COMPOSITES
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.parallel.distributed import broadcast_int, is_main_process
from lit_jax.train import warm_start
from lit_jax.train.adapters import with_adapters
from lit_jax.train.build import Training, bias_of, build_training, compute_of
from lit_jax.train.going_on import check_steps
from lit_jax.train.model_description import describe, described
from lit_jax.train.state import State, init_state
from lit_jax.train.trained import checkpoints_of
from lit_jax.utils.errors import CheckpointError, ConfigError, DataError
from lit_jax.workdir import beside
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.files import check_workdir, read_run_config

# Text towers of whole models, which were trained on plain captions.
_PROMPTLESS = {composite.text for composite in COMPOSITES.values() if not composite.any_tower}
TOKENIZER_RECORDS = 10_000  # A tokenizer is made from the captions of this number of records.


class TrainSetup(NamedTuple):
    """Everything that training needs. `data` is the data stored beside the checkpoint's state, {} at the start."""

    config: TrainConfig
    workdir: Workdir
    module: DualEncoder
    processor: Any
    pixels: PixelNormalizer
    mesh: Mesh
    training: Training
    state: State
    data: dict[str, Any]
    checkpoints: Checkpoints
    fresh: tuple[str, ...]  # Paths of leaves that were in no tower's checkpoint.


def open_setup(config: TrainConfig, workdir: Workdir, mesh: Mesh, *, fallback: bool = True) -> TrainSetup:
    """A new run, or the run in `workdir` at its newest intact checkpoint.

    Raises ConfigError if the workdir has a run with another config, or one that cannot be resumed with this number of
    steps, and as the parts do; CheckpointError without `fallback` if the newest checkpoint is damaged.
    """
    check_workdir(config, workdir)
    checkpoints = checkpoints_of(config, workdir)
    resumed = bool(broadcast_int(checkpoints.latest() is not None))
    if resumed:
        stored = read_run_config(workdir)
        loaded, processor = described(workdir, compute_of(config.model))
    else:
        loaded = _read_towers(config)
        processor = _make_processor(config, loaded.module.config)
    loaded = loaded._replace(params=with_adapters(loaded.params, config.model, config.seed))
    module, pixels = load.with_compute(loaded.module, mesh=mesh), pixels_of(processor.image_processor)
    training = build_training(config, module, loaded.params, mesh, pixels, loaded.fresh)
    locks, tx, dtype, layout = training.locks, training.tx, training.locked_dtype, training.layout
    average = bool(config.optim.ema)
    state = init_state(loaded.params, locks, tx, mesh, dtype, layout, on_host=config.cached, average=average)
    data: dict[str, Any] = {}
    if resumed:
        state, data = checkpoints.restore(state, fallback=fallback)
        step = int(state.step)
        beside.check_config(workdir, config, data, step)
        check_steps(stored, config, step, workdir)
        _check_beside(workdir, data, step)
    else:
        describe(workdir, module.config, loaded.fresh, processor)
    return TrainSetup(
        config, workdir, module, processor, pixels, mesh, training, state, data, checkpoints, loaded.fresh
    )


def _check_beside(workdir: Workdir, data: dict[str, Any], step: int) -> None:
    """Runs `beside.check` once, and raises its error on all processes."""
    problem = None
    if is_main_process():
        try:
            beside.check(workdir, data, step)
        except CheckpointError as error:
            problem = error
    if broadcast_int(problem is not None):
        raise problem or CheckpointError(f"{workdir} cannot be resumed; process 0 says why")


def _read_towers(config: TrainConfig) -> Loaded:
    compute = compute_of(config.model)
    if config.init_from:
        loaded = warm_start.read(config, compute)
    else:
        model = dataclasses.replace(config.model, logit_bias_init=bias_of(config))
        loaded = join.join_towers(model, seed=config.seed, compute=compute)
    described = dataclasses.replace(loaded.module.config, matryoshka=config.model.matryoshka)
    return loaded._replace(module=DualEncoder(described, loaded.module.compute))


def _make_processor(config: TrainConfig, model_config: DualEncoderConfig) -> Any:
    """The processors from the towers' folders; without a folder, from the tower's config and the captions."""
    model, length, positions = config.model, config.data.text_length, positions_of(model_config.text)
    if length > positions:
        raise ConfigError(
            f"config.data.text_length is {length}, and the text tower has positions for {positions} tokens; set it "
            f"to at most {positions}"
        )

    def captions() -> Iterator[str]:
        source = open_source(config.data.train, caption=config.data.caption or None)
        records, reasons = min(len(source), TOKENIZER_RECORDS), []
        for i in range(records):
            try:
                yield from usable_captions(source[i]["captions"])
            except DataError as e:  # The training batches report broken records.
                reasons.append(str(e))
        if len(reasons) == records:
            raise DataError(
                f"{source.spec}: none of its first {records} records has a caption to make a tokenizer of "
                f"({in_words(reasons)}); name their column in data.caption, or repair the data"
            )

    images: Any
    vision, text = (config.init_from or name for name in (model.vision, model.text))
    if vision:
        images = processing.load_image_processor(hub.find(vision, allow_pickle=model.allow_pickle))
    else:
        images = default_processor.image_processor(model_config.vision)
    if model.image_size is not None:
        set_image_size(images, model.image_size)
    if text:
        words = processing.load_tokenizer(hub.find(text, allow_pickle=model.allow_pickle))
    else:
        words = default_processor.tokenizer(model_config.text, captions())
    if model.text_rows < 1 and not makes_mask(words):
        raise ConfigError(
            f"config.model.text_rows={model.text_rows} lets texts share rows, and this tokenizer masks no padding, so "
            "that every row is full: set it to 1"
        )
    if model.text_prompt:
        if model_config.text_type in _PROMPTLESS:
            raise ConfigError(
                f"config.model.text_prompt is {model.text_prompt!r}, and towers of type {model_config.text_type} know "
                "none: leave it empty"
            )
        set_prompt(words, model.text_prompt)
    return processing.processor_class()(images, words)
