"""Retrieval on the test source, before, while and after a model is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_jax.data.sources.base import Source
from lit_jax.evals.bootstrap import estimate
from lit_jax.evals.retrieval import retrieve
from lit_jax.inference.embed_source import EmbedRunner, embed_captions, embed_images, embed_pooled
from lit_jax.inference.embed_step import Embed
from lit_jax.parallel.distributed import is_main_process
from lit_jax.train.partition import combine
from lit_jax.train.setup import TrainSetup
from lit_jax.train.state import State
from lit_jax.utils.names import TEST_PREFIX
from lit_jax.workdir.files import RANKS

BATCH_SIZE = 64  # Rows, or as many as there are devices.


def eval_batch_size(devices: int) -> int:
    """The least multiple of `devices` that is at least BATCH_SIZE."""
    return -(-BATCH_SIZE // devices) * devices


@dataclass(frozen=True)
class Evaluation:
    """Measures a state on all of `source`. All processes call it; `point` is called after each batch and may raise.

    With `pooled`, the cached outputs of a locked image tower, no picture is read.
    """

    setup: TrainSetup
    source: Source
    embed: Embed
    decode: Callable[..., Any]
    tokenize: Callable[..., Any]
    point: Callable[..., None]
    pooled: np.ndarray | None = None

    def __call__(self, state: State, step: int) -> dict[str, float]:
        """Recalls and ranks by name, under TEST_PREFIX, on the main process; {} on the others.

        The ranks of every query are saved in the workdir, for the intervals of a report.
        """
        mesh, point = self.setup.mesh, self.point
        params, rows = combine(state.tuned, state.locked), eval_batch_size(mesh.size)
        runner = EmbedRunner(self.embed, params, mesh, rows, point)
        if self.pooled is not None:
            images = embed_pooled(runner, self.pooled)
        else:
            images = embed_images(runner, self.source, self.decode)
        texts, owner = embed_captions(runner, self.source, self.tokenize)
        if not is_main_process():
            return {}
        result = retrieve(images, texts, owner)
        result.save(self.setup.workdir / RANKS / f"step_{step}.npz")
        return {f"{TEST_PREFIX}{name}": value for name, value in estimate(result).items()}
