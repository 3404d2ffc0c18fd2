"""The model that a workdir has come to."""

from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from lit_jax.config import TrainConfig
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.train import partition
from lit_jax.train.build import compute_of
from lit_jax.train.model_description import described
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params
from lit_jax.workdir import beside
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.files import read_run_config


class Which(NamedTuple):
    """Which weights of a run: of its newest checkpoint that is whole, or of `step`; the last ones, or their average."""

    step: int | None = None
    raw: bool = False  # The last ones, though the run keeps their average.


NEWEST = Which()


class TrainedModel(NamedTuple):
    """What a run has come to: its model at the newest checkpoint, params as float32 numpy arrays.

    With `optim.ema` the tuned ones are their average, unless the last ones were asked for.
    """

    config: TrainConfig
    module: DualEncoder
    processor: Any
    params: Params
    step: int
    tuned: int  # Of all parameters, those that training moves.
    raw: bool = False  # Whether the params are the last ones of a run that keeps their average.


def checkpoints_of(config: TrainConfig, workdir: Workdir) -> Checkpoints:
    """The checkpoints of a run with this config. Raises ConfigError."""
    return Checkpoints(
        str(workdir),
        save_every=config.save_every,
        keep=config.keep,
        keep_best=config.keep_best,
        best_metric=config.best_metric,
        best_mode=config.best_mode,
    )


def read_trained(workdir: Workdir, *, step: int | None = None, raw: bool = False) -> TrainedModel:
    """The newest checkpoint of `workdir` that is whole, or that of `step`; with `raw` the weights of its last step.

    Raises CheckpointError, and ConfigError for `raw` if the run keeps no average of its weights.
    """
    config = read_run_config(workdir)
    if raw and not config.optim.ema:
        raise ConfigError(
            f"{workdir} keeps no average of its weights (optim.ema is 0), so there are no others than the last ones; "
            "leave out --raw"
        )
    with closing(checkpoints_of(config, workdir)) as checkpoints:
        saved = checkpoints.read(step=step)
    beside.check_config(workdir, config, saved.data, saved.step, stored=True)
    beside.check(workdir, saved.data, saved.step)
    loaded, processor = described(workdir, compute_of(config.model))
    moved = saved.ema if saved.ema and not raw else saved.tuned
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), partition.combine(moved, saved.locked))
    tuned = sum(leaf.size for leaf in jax.tree.leaves(saved.tuned))
    return TrainedModel(config, loaded.module, processor, params, saved.step, tuned, raw)
