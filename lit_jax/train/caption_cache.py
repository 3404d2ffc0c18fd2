"""The outputs of a locked text tower for every caption of every record, computed once and kept on disk.

KEY.npy has a row for each caption (`cached_rows`); KEY.captions says where the captions of each record begin and which
captions have the same tokens.
"""

import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from lit_jax.data.captions import usable_captions
from lit_jax.data.eval_batches import text_batches
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.sources.base import Source
from lit_jax.parallel.distributed import fetch, process_shard
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.cache_draft import Draft
from lit_jax.train.cached_rows import open_rows
from lit_jax.train.tower_cache import fill, is_whole, path_of
from lit_jax.utils import npy
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import CheckpointError, DataError, first_line
from lit_jax.utils.typing import Batch, Tokenize
from lit_jax.workdir.bucket import Workdir

_CHUNK = 16  # A chunk has as many records as this number of batches.
_THREADS = 8


@dataclass(frozen=True)
class CaptionCache:
    """Where a run keeps the outputs of its locked text tower, and how it computes missing ones.

    `pool` maps a batch of tokens on `mesh` to the tower's outputs [B Dt] and to numbers [B] that are equal for equal
    tokens. The other fields are those of `TowerCache`.
    """

    folder: Path
    pool: Callable[[Batch], tuple[jax.Array, jax.Array]]
    tokenize: Tokenize
    mesh: Mesh
    batch_size: int
    workdir: Workdir | None = None
    dtype: str = "float32"

    def pooled(
        self, key: str, source: Source, progress: Callable[[int, int], None] | None = None
    ) -> PooledTexts:
        """The outputs for every usable caption of `source`, in order, memory-mapped from the file named by `key`.

        They are computed if the file is missing or damaged. A record that cannot be read has none. All processes read
        all captions, each embeds its part of every batch, and the main process writes.
        """
        rows = path_of(self.folder, key)
        about = rows.with_suffix(".captions")

        def compute(draft: Draft | None, first: int) -> None:
            step = _CHUNK * self.batch_size
            with ThreadPoolExecutor(_THREADS) as pool:
                for start in range(first, len(source), step):
                    end = min(start + step, len(source))
                    captions = list(pool.map(lambda i: _captions(source, i), range(start, end)))
                    self._append(draft, captions)
                    if progress:
                        progress(end, len(source))
            if draft is not None:
                content = _written(*(np.concatenate(draft.about[name]) for name in ("counts", "groups")))
                put(about, lambda path: path.write_bytes(content))

        def whole() -> bool:
            return is_whole(rows, lambda: open_rows(rows, len(_read(about, len(source))[1])))

        fill((rows, about), self.workdir, whole, compute, self.dtype)
        offsets, groups = _read(about, len(source))
        return PooledTexts(open_rows(rows, len(groups)), offsets, groups)

    def _append(self, draft: Draft | None, captions: Sequence[Sequence[str]]) -> None:
        """Embeds the captions of a chunk of records, and appends them."""
        texts = list(itertools.chain(*captions))
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        batches = text_batches(
            texts or [""], self.tokenize, batch_size=self.batch_size, shard=process_shard()
        )
        for batch in batches:
            placed = put_batch(batch, self.mesh)
            outputs, groups = self.pool(placed["texts"])
            parts.append((fetch(outputs), fetch(groups)))
        if draft is None:
            return
        rows, numbers = (np.concatenate(arrays)[: len(texts)] for arrays in zip(*parts, strict=True))
        counts = [len(some) for some in captions]
        draft.append(rows, len(captions), counts=counts, groups=numbers.tolist())


def _captions(source: Source, index: int) -> list[str]:
    try:
        return usable_captions(source[index]["captions"])
    except DataError:  # The training batches report broken records.
        return []


def _written(counts: np.ndarray, groups: np.ndarray) -> bytes:
    """Offsets and groups as .npy, followed by their sha256, which other readers ignore."""
    file = io.BytesIO()
    np.save(file, np.concatenate([[0], np.cumsum(counts), groups]).astype(np.int64))
    return file.getvalue() + hashlib.sha256(file.getvalue()).digest()


def _read(path: Path, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [R + 1] and groups [M]. Raises CheckpointError with the reason if the file is damaged."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError("it has another sha256 than was written")
        numbers = npy.load(io.BytesIO(content[:-32]))
        offsets, groups = numbers[: records + 1], numbers[records + 1 :].astype(np.int32)
        if offsets[-1] != len(groups):
            raise ValueError(f"it is of another source than one of {records} records")
    except (OSError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)})") from error
    return offsets, groups
