"""The trained model in a workdir."""

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
    """Which weights of a run: of its newest intact checkpoint or of `step`, and the last ones or their average."""

    step: int | None = None
    raw: bool = False  # Whether to take the last weights, though the run keeps their average.


NEWEST = Which()


class TrainedModel(NamedTuple):
    """The result of a run: its model at a checkpoint, with params as float32 numpy arrays.

    With `optim.ema`, tuned params are replaced by their average unless the last ones were asked for.
    """

    config: TrainConfig
    module: DualEncoder
    processor: Any
    params: Params
    step: int
    tuned: int  # The number of parameters that training changes.
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
    """The newest intact checkpoint in `workdir`, or the one of `step`; with `raw`, the last weights, not their average.

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
