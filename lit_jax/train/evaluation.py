"""Retrieval on the test source, before, during and after training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.contents import captions_of, named
from lit_jax.evals.bootstrap import estimate
from lit_jax.evals.retrieval import retrieve
from lit_jax.inference.embed_source import EmbedRunner, embed_images, embed_pooled, embed_texts
from lit_jax.inference.embed_step import Embed
from lit_jax.inference.prefix import prefix
from lit_jax.parallel.distributed import is_main_process
from lit_jax.train.setup import TrainSetup
from lit_jax.train.state import State
from lit_jax.utils.errors import NonFiniteError
from lit_jax.utils.names import TEST_PREFIX
from lit_jax.workdir.files import RANKS

BATCH_SIZE = 64  # Rows of a batch, before rounding up to a multiple of the devices.


def eval_batch_size(devices: int) -> int:
    """BATCH_SIZE, rounded up to a multiple of `devices`."""
    return -(-BATCH_SIZE // devices) * devices


@dataclass(frozen=True)
class Evaluation:
    """Measures a state on all of `source`. All processes call it; `point` is called after each batch and can raise.

    With `pooled`, the cached outputs of a locked image tower, no picture is decoded; with `pooled_texts`, those of a
    text tower, no caption is read. Raises DataError for a broken picture and for a record without a caption, and
    NonFiniteError for embeddings that are not finite.
    """

    setup: TrainSetup
    source: Source
    embed: Embed
    decode: Callable[..., Any]
    tokenize: Callable[..., Any]
    point: Callable[..., None]
    pooled: np.ndarray | None = None
    pooled_texts: PooledTexts | None = None

    @cached_property
    def captions(self) -> tuple[list[str], Int[np.ndarray, " M"]]:
        """What `captions_of` returns; the records are read once for it, not in each evaluation."""
        return captions_of(self.source)

    def __call__(self, state: State, step: int) -> dict[str, float]:
        """Recalls and ranks by name, under TEST_PREFIX, on the main process; {} on the others.

        With `model.matryoshka` the recalls of each width follow, "text_to_image_recall@5/64". The ranks of every query
        with whole embeddings are saved in the workdir, for the intervals in a report.
        """
        mesh, point = self.setup.mesh, self.point
        params, rows = state.evaluated, eval_batch_size(mesh.size)
        runner = EmbedRunner(self.embed, params, mesh, rows, point)
        if self.pooled is not None:
            self._check_pooled(self.pooled)
            images = embed_pooled(runner, self.pooled)
        else:
            images = embed_images(runner, self.source, self.decode)
        if self.pooled_texts is not None:
            owner = self._owners(self.pooled_texts)
            texts = embed_pooled(runner, self.pooled_texts.rows, "text")
        else:
            captions, owner = self.captions
            texts = embed_texts(runner, captions, self.tokenize)
        if not (np.isfinite(images).all() and np.isfinite(texts).all()):
            raise NonFiniteError(
                f"the embeddings after step {step} are not finite, and that step is not saved: lower optim.peak_lr, or "
                "set model.max_logit_scale or optim.clip_norm"
            )
        if not is_main_process():
            return {}
        result = retrieve(images, texts, owner)
        result.save(self.setup.workdir / RANKS / f"step_{step}.npz")
        found = estimate(result)
        for width in self.setup.config.model.matryoshka:
            whole = width == images.shape[1]
            part = result if whole else retrieve(prefix(images, width), prefix(texts, width), owner)
            found |= {f"{name}/{width}": x for name, x in estimate(part).items() if "_recall@" in name}
        return {f"{TEST_PREFIX}{name}": value for name, value in found.items()}

    def _owners(self, texts: PooledTexts) -> Int[np.ndarray, " M"]:
        """The record of each caption. Raises DataError if a record had no caption when they were cached."""
        if len(bad := np.flatnonzero(np.diff(texts.offsets) == 0)):
            count = f"{len(bad)} of {len(texts.offsets) - 1}"
            raise named(
                self.source,
                int(bad[0]),
                f"it has no caption that can be used, or is broken ({count} are); retrieval needs one for each: repair "
                "it or leave the record out",
            )
        return texts.owner

    def _check_pooled(self, pooled: np.ndarray) -> None:
        """Raises DataError for the first picture that was broken when its output was cached."""
        if len(bad := np.flatnonzero(~np.isfinite(pooled[:]).all(axis=1))):
            why = (
                f"its picture is broken ({len(bad)} of {len(pooled)} are); an evaluation needs every picture"
            )
            raise named(self.source, int(bad[0]), f"{why}: repair it or leave the record out")
