"""What a run reads: its sources, the training batches, the evaluation, and the cached outputs of a locked tower."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lit_jax.config import TrainConfig
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import Batches, Reading, TrainTransforms, train_batches
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.inference.embed_step import make_embed_step
from lit_jax.parallel.distributed import process_shard
from lit_jax.train import tower_cache
from lit_jax.train.caches import Caches
from lit_jax.train.evaluation import Evaluation
from lit_jax.train.setup import TrainSetup
from lit_jax.utils.errors import DataError
from lit_jax.workdir.files import ledger_name

_LOOKED_AT = 20  # The number of records in which captions are looked for.


class Inputs(NamedTuple):
    """The sources of a run."""

    source: Source  # What the run is trained on.
    test: Source | None
    fingerprint: str  # The fingerprint of `source`, computed once since it can read all of the data.


def open_sources(config: TrainConfig) -> tuple[Source, Source | None]:
    """What is trained on, and what is tested on. Raises DataError."""
    caption = config.data.caption or None
    source = open_source(config.data.train, caption=caption)
    test = open_source(config.data.test, caption=caption) if config.data.test else None
    _check_captions(source, config.data.captions_per_image)
    if len(source) < config.batch_size:
        raise DataError(
            f"{source.spec} has {len(source)} records, fewer than one batch of {config.batch_size}; "
            "lower config.batch_size"
        )
    return source, test


def _check_captions(source: Source, wanted: int = 1) -> None:
    """Raises DataError if none of several records spread over the source has `wanted` captions."""
    looked = sorted({i * len(source) // _LOOKED_AT for i in range(_LOOKED_AT)})
    broken = most = 0
    for index in looked if len(source) else ():
        try:
            most = max(most, len(source[index]["captions"]))
            if most >= wanted:
                return
        except DataError:  # The training batches report broken records.
            broken += 1
    if most:
        raise DataError(
            f"{source.spec}: of {len(looked)} records none has more than {most} captions, and "
            f"config.data.captions_per_image={wanted} wants that many of each; set it to {most} or fewer"
        )
    if broken < len(looked):
        raise DataError(
            f"{source.spec}: none of {len(looked) - broken} records has a caption; want one for each picture: name "
            "their column in data.caption, or write metadata.jsonl or a text file beside each picture"
        )


class Cached(NamedTuple):
    """The outputs of locked towers for all of a source, memory-mapped; None for a tower that is not cached."""

    images: np.ndarray | None
    texts: PooledTexts | None


class Prepared(NamedTuple):
    """The evaluation of a run, if there is one, its training batches, and the cached outputs for the latter."""

    evaluation: Evaluation | None
    batches: Batches
    cached: Cached


def prepare(
    setup: TrainSetup,
    inputs: Inputs,
    start: int,
    cache_folder: Path | None,
    point: Callable[[], None],
) -> Prepared:
    """The evaluation, if there is a test source, and the training batches after step `start`.

    If the config asks for a cache, it is filled here, in `cache_folder` or the workdir; `point` is called after each
    of its batches.
    """
    config, (source, test, fingerprint) = setup.config, inputs
    images, words = setup.processor.image_processor, setup.processor.tokenizer
    decode, length = make_decode(images), config.data.text_length
    tokenize = make_tokenize(words, length, setup.module.config.text.vocab_size)
    embed = make_embed_step(setup.module, setup.mesh, setup.pixels, jnp.dtype(setup.module.compute.dtype))
    cached = tested = Cached(None, None)
    named = isinstance(config.cache, tuple)
    if config.cached:
        tower_cache.check_cacheable(setup.state.tuned, config.data.augment, config.cached, named)
    point()
    if config.cached:
        caches = Caches(setup, embed, cache_folder or setup.workdir / tower_cache.FOLDER, point)
        if test is not None:
            tested = Cached(*caches.of(test, test.fingerprint(), decode, tokenize))
        cached = Cached(*caches.of(source, fingerprint, decode, tokenize))
    batches = train_batches(
        source,
        TrainTransforms(
            make_train_decode(images, config.data.decode, config.data.augment),
            tokenize,
            make_count_tokens(words, length),
            cached.texts,
            config.data.captions_per_image,
        ),
        Reading(
            threads=config.data.threads,
            workers=config.data.workers,
            on_bad_record=config.data.on_bad_record,
            max_bad_share=config.data.max_broken,
            ledger_path=setup.workdir / ledger_name(),
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        start=start,
        shard=process_shard(),
        pooled=cached.images,
    )
    evaluation = None
    if test is not None:
        evaluation = Evaluation(setup, test, embed, decode, tokenize, point, tested.images, tested.texts)
    return Prepared(evaluation, batches, cached)
