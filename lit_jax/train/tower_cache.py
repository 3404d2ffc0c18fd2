"""The outputs of a locked image tower, computed once and kept on disk.

LiT locks the image tower (arXiv:2111.07991), so without augmentation a picture gives the same vector in every epoch.
The outputs lie in one .npy file (`cached_rows`), whose name is a hash of everything that could change them.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from lit_jax.data.eval_batches import image_batches
from lit_jax.data.sources.base import Source
from lit_jax.parallel.distributed import (
    barrier,
    broadcast_int,
    fetch,
    is_main_process,
    process_shard,
    wait_for,
)
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.cached_rows import MODERATE, open_rows, seal
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.utils.typing import Params
from lit_jax.workdir.bucket import Bucket, Workdir, pull, push

log = logging.getLogger(__name__)

FOLDER = "cache"  # In a workdir.


def check_cacheable(tuned: Params, augment: str) -> None:
    """Raises ConfigError with the reason if this run's images cannot be embedded once and for all."""
    if "vision" in tuned:
        names = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(tuned["vision"])
        ]
        raise ConfigError(
            f"cache=True needs an image tower that is locked as a whole; vision/{names[0]} is tuned "
            f"(one of {len(names)}): lock it, take vision_pooling='cls' if it is a new pooler, or set cache=False"
        )
    if augment != "none":
        raise ConfigError(
            f"cache=True needs the same picture in every epoch; augment is {augment!r}, not 'none'"
        )


def fingerprint(config: Any, weights: Params, image_processor: Any, data: str, dtype: Any) -> str:
    """A hash of the tower's config and weights, the preprocessing, the precision and `data`, a source's fingerprint."""
    digest = hashlib.sha256()
    processor = {name: value for name, value in image_processor.to_dict().items() if not name.startswith("_")}
    parts = [
        repr(config),
        json.dumps(processor, sort_keys=True, default=str),
        data,
        str(dtype),
    ]
    digest.update("\0".join(parts).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(fetch(leaf)).tobytes())
    return digest.hexdigest()


def path_of(folder: Path, key: str) -> Path:
    """The file of the outputs with that fingerprint; it may be missing."""
    return folder / f"{key[:32]}.npy"


@dataclass(frozen=True)
class TowerCache:
    """Where a run keeps the outputs of its locked image tower, and how it computes those that are missing.

    `pool` maps uint8 images on `mesh` to the tower's outputs [B Dv]. If `folder` lies in a workdir in a bucket, that is
    `workdir`: the files are kept there and brought here for each start. `progress(done, total)` is called after each
    batch, and may raise.
    """

    folder: Path
    pool: Callable[[np.ndarray], jax.Array]
    decode: Callable[[bytes], np.ndarray]
    mesh: Mesh
    batch_size: int
    on_bad_record: str = "skip"
    max_broken: float = 0.01
    workdir: Workdir | None = None

    def pooled(
        self, key: str, source: Source, progress: Callable[[int, int], None] | None = None
    ) -> Float[np.ndarray, "R Dv"]:
        """The outputs for every picture of `source`, in order, float32, memory-mapped from the file named by `key`.

        They are computed if the file is not there or damaged; it appears only when it is complete. A picture that
        cannot be read has a row of NaN. Several processes each read their part of the pictures, and the main process
        writes.
        """
        path = path_of(self.folder, key)
        self._bring(path)
        if not broadcast_int(is_main_process() and self._is_whole(path, len(source))):
            if isinstance(self.workdir, Bucket):
                path.unlink(missing_ok=True)  # A copy of what is damaged.
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}.part")  # Another run may write the same rows.
            try:
                self._compute(draft, source, progress)
                if is_main_process():
                    draft.replace(path)
                    if self.workdir is not None:
                        push(self.workdir)
            finally:
                draft.unlink(missing_ok=True)
            barrier("cache")
            self._bring(path)
        wait_for(path)
        return open_rows(path, len(source))

    def _is_whole(self, path: Path, count: int) -> bool:
        """Whether the file of `count` rows is there and, as far as that is looked at now, what was written."""
        if not path.exists():
            return False
        try:
            rows = open_rows(path, count)
            if rows.nbytes <= MODERATE:
                rows.compare_all()
        except CheckpointError as error:
            log.warning("%s; it is computed again", error)
            if path.is_dir():
                path.rename(path.with_suffix(f"{path.suffix}.damaged"))
            return False
        return True

    def _bring(self, path: Path) -> None:
        if self.workdir is not None and not path.is_file():
            pull(self.workdir, f"{path.parent.name}/{path.name}")

    def _compute(self, path: Path, source: Source, progress: Callable[[int, int], None] | None) -> None:
        outputs: Any = None
        done = 0
        batches = image_batches(
            source,
            self.decode,
            batch_size=self.batch_size,
            shard=process_shard(),
            on_bad_record=self.on_bad_record,
            max_bad_share=self.max_broken,
        )
        for batch in batches:
            placed = put_batch(batch, self.mesh)
            rows, index, mask = (
                fetch(x) for x in (self.pool(placed["images"]), placed["index"], placed["mask"])
            )
            done += int(np.count_nonzero(index >= 0))
            if is_main_process():
                if outputs is None:
                    shape = (len(source), rows.shape[1])
                    outputs = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                    _reserve(path)
                outputs[index[index >= 0]] = np.where(mask[:, None], rows, np.float32(np.nan))[index >= 0]
            if progress:
                progress(done, len(source))
        if is_main_process():
            outputs.flush()
            seal(path)


def _reserve(path: Path) -> None:
    """Takes the space of a file. Raises OSError if the disk is full, where to write to its mapping ends the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
