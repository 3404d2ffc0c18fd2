"""Embeds sources and lists of texts: unit vectors of all of them, on every process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from lit_jax.data.eval_batches import image_batches, text_batches
from lit_jax.data.sources.base import Source
from lit_jax.inference.embed_step import Embed
from lit_jax.parallel.distributed import fetch, process_shard
from lit_jax.parallel.sharding import check_batch, put_batch
from lit_jax.utils.typing import Batch, Decode, Params, ProcessShard, Progress, Tokenize


@dataclass(frozen=True)
class EmbedRunner:
    """A model on a mesh, and how many rows it embeds at once."""

    step: Embed
    params: Params
    mesh: Mesh
    batch_size: int  # Rows on all devices together; the number of devices must divide it.
    progress: Progress | None = None  # Called after each batch; it may raise.


def embed_images(
    runner: EmbedRunner,
    source: Source,
    decode: Decode,
    *,
    tower: bool = False,
    on_bad_record: str = "error",
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings of all pictures of `source`, in order; with `tower`, the image tower's output before projection.

    All processes call it, and each gets all rows. Raises DataError for a picture that cannot be read, unless
    `on_bad_record` is "skip": then its row is NaN. Raises ConfigError for a batch size that the number of devices does
    not divide.
    """
    check_batch(runner.batch_size, runner.mesh)
    batches = image_batches(
        source,
        decode,
        batch_size=runner.batch_size,
        shard=process_shard(),
        on_bad_record=on_bad_record,
        max_bad_share=1.0,
    )
    embed = runner.step.pool if tower else runner.step.images
    return _gather(runner, batches, lambda batch: embed(runner.params, batch["images"]), len(source))


def embed_pooled(
    runner: EmbedRunner, pooled: Float[np.ndarray, "N D"], tower: str = "vision"
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings from pooled outputs of a tower, which for pictures `embed_images` returns with `tower`."""
    batches = _pooled_batches(pooled, runner.batch_size, process_shard())
    embed = runner.step.pooled if tower == "vision" else runner.step.pooled_texts
    return _gather(runner, batches, lambda batch: embed(runner.params, batch["pooled"]), len(pooled))


def embed_texts(runner: EmbedRunner, texts: Sequence[str], tokenize: Tokenize) -> Float[np.ndarray, "M E"]:
    """Unit embeddings of `texts`, in order.

    All processes call it, and each gets all rows. Raises DataError for no texts and for what `tokenize` refuses, and
    ConfigError for a batch size that the number of devices does not divide.
    """
    check_batch(runner.batch_size, runner.mesh)
    batches = text_batches(texts, tokenize, batch_size=runner.batch_size, shard=process_shard())
    embed = runner.step.texts
    return _gather(runner, batches, lambda batch: embed(runner.params, batch["texts"]), len(texts))


def _pooled_batches(
    pooled: Float[np.ndarray, "N D"], batch_size: int, shard: ProcessShard
) -> Iterator[Batch]:
    """{"pooled": float32 [b, D], "index": int32 [b]}; the last batch is padded with zeros of index -1."""
    b = batch_size // shard.count
    for start in range(shard.index * b, -(-len(pooled) // batch_size) * batch_size, batch_size):
        rows = pooled[start : start + b]
        filled = np.zeros((b, pooled.shape[1]), np.float32)
        filled[: len(rows)] = rows
        index = np.where(np.arange(b) < len(rows), np.arange(start, start + b), -1).astype(np.int32)
        yield {"pooled": filled, "index": index}


def _gather(
    runner: EmbedRunner, batches: Iterable[Batch], embed: Callable[[Batch], jax.Array], total: int
) -> Float[np.ndarray, "N E"]:
    """Embeds the batches of all processes and puts each row at its "index" among `total` rows, on every process.

    A row whose "mask" is False is NaN.
    """
    out, done = np.empty((0, 0), np.float32), 0
    for batch in batches:
        placed = put_batch(batch, runner.mesh)
        rows, index = fetch(embed(placed)), fetch(placed["index"])
        if "mask" in placed and not (mask := fetch(placed["mask"])).all():
            rows = np.where(mask[:, None], rows, np.float32(np.nan))
        if not done:
            out = np.empty((total, rows.shape[1]), np.float32)
        out[index[index >= 0]] = rows[index >= 0]
        done += int(np.count_nonzero(index >= 0))
        if runner.progress:
            runner.progress(done, total)
    return out
