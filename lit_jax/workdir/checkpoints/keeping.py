"""When a run is saved and which checkpoints are kept, as options of Orbax's manager."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from lit_jax.utils import checksums
from lit_jax.utils.errors import ConfigError
from lit_jax.workdir.checkpoints.whole import NAMES


@dataclasses.dataclass(frozen=True)
class Keeping:
    """A save at every `save_every`-th step; the `keep` newest and the `keep_best` best by `best_metric` are kept.

    Raises ConfigError for numbers out of range and unknown modes.
    """

    save_every: int
    keep: int
    keep_best: int
    best_metric: str
    best_mode: str  # max or min

    def __post_init__(self) -> None:
        if self.save_every < 1 or self.keep < 1 or self.keep_best < 0:
            raise ConfigError(
                f"save_every={self.save_every}, keep={self.keep} and keep_best={self.keep_best}: wanted at least 1, 1 "
                "and 0"
            )
        if self.keep_best and (not self.best_metric or self.best_mode not in ("max", "min")):
            raise ConfigError(
                f"keep_best={self.keep_best} with best_metric={self.best_metric!r} and best_mode={self.best_mode!r}; "
                "wanted the name of a metric and 'max' or 'min'"
            )

    def manager(self, folder: epath.Path, written: Callable[[], None]) -> ocp.CheckpointManager:
        """Orbax's manager of `folder`; it calls `written` when all files of a checkpoint exist, before it is named."""
        policy = ocp.checkpoint_managers
        kept: list[ocp.checkpoint_managers.PreservationPolicy] = [policy.LatestN(self.keep)]
        if self.keep_best:
            kept.append(
                policy.BestN(
                    get_metric_fn=_value,
                    reverse=self.best_mode == "min",
                    n=self.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policy.FixedIntervalPolicy(self.save_every),
            preservation_policy=policy.AnyPreservationPolicy(kept),
            best_fn=_value if self.keep_best else None,  # Otherwise no metric is written.
            step_name_format=NAMES,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=written),
        )
        return checksums.retried(lambda: ocp.CheckpointManager(folder, options=options), folder)

    def best(self, metrics: Mapping[str, float] | None) -> dict[str, float] | None:
        """The metric by which checkpoints are chosen, from the first process; None if it is missing or not needed."""
        if not self.keep_best:
            return None
        value = float((metrics or {}).get(self.best_metric, math.nan))
        if jax.process_count() > 1:
            value = float(multihost_utils.broadcast_one_to_all(np.float64(value)))
        return {"best": value} if math.isfinite(value) else None


def _value(metrics: Mapping[str, float]) -> float:
    return metrics["best"]
