"""The caches of a run: one for each locked tower, for one source after another."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from lit_jax.config import TrainConfig
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.sources.base import Source
from lit_jax.data.transforms.tokenizer import make_count_tokens, makes_mask
from lit_jax.inference.embed_step import Embed
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.parallel.distributed import is_main_process
from lit_jax.parallel.sharding import put, shardings
from lit_jax.train.caption_cache import CaptionCache
from lit_jax.train.evaluation import BATCH_SIZE
from lit_jax.train.loss_and_grad import fingerprint
from lit_jax.train.partition import combine
from lit_jax.train.setup import TrainSetup
from lit_jax.train.tower_cache import TowerCache, cached_whole, fingerprint_of
from lit_jax.train.tower_cache import fingerprint as fingerprint_of_images
from lit_jax.utils.console import progress
from lit_jax.utils.typing import Batch, Decode, Params, Progress, Tokenize


@dataclass(frozen=True)
class Caches:
    """Where a run keeps the outputs of its locked towers. `point` is called after each batch, and can raise.

    The weights of a tower are on the devices only while something is computed with them.
    """

    setup: TrainSetup
    embed: Embed
    folder: Path
    point: Callable[[], None]

    def of(
        self, source: Source, data: str, decode: Decode, tokenize: Tokenize
    ) -> tuple[np.ndarray | None, PooledTexts | None]:
        """The outputs for the pictures and captions of `source`, whose fingerprint is `data`; None if not cached."""
        setup = self.setup
        towers = cached_whole(setup.config, setup.state.tuned)
        images = texts = None
        rows, dtype = rows_at_once(setup.config, setup.mesh.size), str(setup.module.compute.dtype)
        kept = setup.config.cache_dtype
        if kept != "float32":
            dtype += f" kept in {kept}"
        if "vision" in towers:
            key = fingerprint_of_images(
                described(setup.module.config, "vision"),
                setup.state.locked["vision"],
                setup.processor.image_processor,
                data,
                dtype,
            )
            limits = setup.config.data.on_bad_record, setup.config.data.max_broken
            pool = _Tower(setup, "vision", self.embed.pool)
            cache = TowerCache(self.folder, pool, decode, setup.mesh, rows, *limits, setup.workdir, kept)
            with progress(f"image tower on {source.spec}", show=is_main_process()) as report:
                images = cache.pooled(key, source, partial(self._done, report))
        if "text" in towers:
            words, length = setup.processor.tokenizer, setup.config.data.text_length
            counted = make_count_tokens(words, length)
            ways = [counted.fast.to_str(), counted.prompt, length, makes_mask(words), words.padding_side]
            parts = [repr(described(setup.module.config, "text")), json.dumps(ways), data, dtype]
            key = fingerprint_of(setup.state.locked["text"], *parts)
            tower = _Tower(setup, "text", self.embed.pool_texts)

            def outputs(batch: Batch) -> tuple[Array, Array]:
                return tower(batch), _groups(batch["input_ids"])

            captions = CaptionCache(self.folder, outputs, tokenize, setup.mesh, rows, setup.workdir, kept)
            with progress(f"text tower on {source.spec}", show=is_main_process()) as report:
                texts = captions.pooled(key, source, partial(self._done, report))
        return images, texts

    def _done(self, report: Progress, done: int, total: int) -> None:
        report(done, total)
        self.point()


def rows_at_once(config: TrainConfig, devices: int) -> int:
    """The rows in a batch of the cache: on each device as many as in a step without the cache, at most BATCH_SIZE.

    Products of few rows are rounded differently from products of many, and a cached run must give the same bits as one
    without a cache.
    """
    return min(BATCH_SIZE, (config.micro_batch or config.batch_size) // devices) * devices


_groups = jax.jit(fingerprint)


def described(config: DualEncoderConfig, tower: str) -> tuple[Any, ...]:
    """The parts of a model's config that the pooled output of a tower depends on."""
    pooling = getattr(config, f"{tower}_pooling")
    return (
        getattr(config, f"{tower}_type"),
        getattr(config, tower),
        *([pooling] if pooling != "pooler" else []),
    )


@dataclass(frozen=True)
class _Tower:
    """Computes with one tower, whose weights are moved to the devices at the first call."""

    setup: TrainSetup
    name: str
    step: Callable[[Params, Any], Array]

    def __call__(self, inputs: Any) -> Array:
        return self.step(self._params, inputs)

    @cached_property
    def _params(self) -> Params:
        setup, state = self.setup, self.setup.state
        weights = {self.name: state.locked[self.name]}
        placed = jax.tree.map(put, weights, shardings(weights, setup.mesh, setup.training.layout))
        aside = cached_whole(setup.config, state.tuned)
        rest = {name: part for name, part in state.locked.items() if name not in aside}
        return combine(state.tuned, rest) | placed
