"""Sources and texts through a model: unit vectors of all of them, on every process."""

from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from lit_jax.data.eval_batches import image_batches, text_batches
from lit_jax.data.sources.base import Source
from lit_jax.data.sources.contents import captions_of
from lit_jax.inference.embed_step import Embed
from lit_jax.parallel.distributed import fetch, process_shard
from lit_jax.parallel.sharding import check_batch, put_batch
from lit_jax.utils.typing import Batch, Params


def embed_images(
    embed: Embed,
    params: Params,
    source: Source,
    decode: Callable,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    tower: bool = False,
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings of all pictures of `source`, in order, or what the image `tower` gives before the projection.

    Raises DataError for a picture that cannot be read.
    """
    check_batch(batch_size, mesh)
    batches = image_batches(source, decode=decode, batch_size=batch_size, **process_shard())
    of = embed.pool if tower else embed.images
    return _gathered(batches, lambda batch: of(params, batch["images"]), len(source), mesh, progress)


def embed_pooled(
    embed: Embed,
    params: Params,
    pooled: Float[np.ndarray, "N Dv"],
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings from outputs of the image tower that were computed earlier."""
    mine = process_shard()
    b = batch_size // mine["process_count"]

    def batches() -> Iterable[Batch]:
        for start in range(mine["process_index"] * b, -(-len(pooled) // batch_size) * batch_size, batch_size):
            some = pooled[start : start + b]
            filled = np.zeros((b, pooled.shape[1]), np.float32)
            filled[: len(some)] = some
            index = np.where(np.arange(b) < len(some), np.arange(start, start + b), -1).astype(np.int32)
            yield {"pooled": filled, "index": index}

    return _gathered(
        batches(), lambda batch: embed.pooled(params, batch["pooled"]), len(pooled), mesh, progress
    )


def embed_texts(
    embed: Embed,
    params: Params,
    texts: Sequence[str],
    tokenize: Callable,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "M E"]:
    """Unit embeddings of `texts`, in order."""
    check_batch(batch_size, mesh)
    batches = text_batches(texts, tokenize=tokenize, batch_size=batch_size, **process_shard())
    return _gathered(batches, lambda batch: embed.texts(params, batch["texts"]), len(texts), mesh, progress)


def embed_captions(
    embed: Embed,
    params: Params,
    source: Source,
    tokenize: Callable,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[np.ndarray, "M E"], Int[np.ndarray, " M"]]:
    """Unit embeddings of all captions of all records, and the record that each belongs to."""
    captions, owner = captions_of(source)
    return embed_texts(embed, params, captions, tokenize, mesh, batch_size, progress), owner


def _gathered(
    batches: Iterable[Batch],
    embed: Callable[[Batch], jax.Array],
    total: int,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "N E"]:
    """`embed` of this process's and all others' batches: row "index" of `total`, on every process."""
    out, done = np.empty((0, 0), np.float32), 0
    for batch in batches:
        placed = put_batch(batch, mesh)
        rows, index = fetch(embed(placed)), fetch(placed["index"])
        if not done:
            out = np.empty((total, rows.shape[1]), np.float32)
        out[index[index >= 0]] = rows[index >= 0]
        done += int(np.count_nonzero(index >= 0))
        if progress:
            progress(done, total)
    return out
