"""The outputs of a locked image tower, computed once and kept on disk; `caption_cache` does so for texts.

LiT locks the image tower (arXiv:2111.07991), so without augmentation a picture gives the same vector in every epoch.
The outputs are in one .npy file (`cached_rows`), whose name is a hash of everything that could change them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from lit_jax.config import TrainConfig
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
from lit_jax.train.cache_draft import Draft, tidy
from lit_jax.train.cached_rows import MODERATE, CachedRows, open_rows
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.utils.typing import Params
from lit_jax.workdir.bucket import Bucket, Workdir, pull, push

log = logging.getLogger(__name__)

FOLDER = "cache"  # The folder of the caches in a workdir.


def cached_whole(config: TrainConfig, tuned: Params) -> tuple[str, ...]:
    """The towers whose outputs are cached and that no step needs, since none of their weights are `tuned`."""
    return tuple(tower for tower in config.cached if tower not in tuned)


def check_cacheable(
    tuned: Params, augment: str, towers: Collection[str] = ("vision",), named: bool = False
) -> None:
    """Raises ConfigError with the reason if the outputs of these towers cannot be cached.

    A text tower with tuned weights is simply not cached, unless the config has `named` it.
    """
    for tower, what, pooling in (("vision", "an image", "cls"), ("text", "a text", "mean")):
        if tower not in towers or tower not in tuned or (tower == "text" and not named):
            continue
        names = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(tuned[tower])
        ]
        shown = (tower,) if named else True
        raise ConfigError(
            f"cache={shown} needs {what} tower that is locked as a whole; {tower}/{names[0]} is "
            f"tuned (one of {len(names)}): lock it, take {tower}_pooling={pooling!r} if it is a new pooler, or set "
            "cache=False"
        )
    if "vision" in towers and augment != "none":
        raise ConfigError(
            f"cache=True needs the same picture in every epoch; augment is {augment!r}, not 'none'"
        )


def fingerprint(config: Any, weights: Params, image_processor: Any, data: str, dtype: Any) -> str:
    """A hash of the tower's config and weights, the preprocessing, the precision and `data`, a source's fingerprint."""
    processor = {name: value for name, value in image_processor.to_dict().items() if not name.startswith("_")}
    return fingerprint_of(
        weights, repr(config), json.dumps(processor, sort_keys=True, default=str), data, str(dtype)
    )


def fingerprint_of(weights: Params, *parts: str) -> str:
    """A hash of weights and of `parts`, which describe everything else that the outputs depend on."""
    digest = hashlib.sha256()
    digest.update("\0".join(parts).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(fetch(leaf)).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def path_of(folder: Path, key: str) -> Path:
    """The path of the file of outputs with the fingerprint `key`, which need not exist."""
    return folder / f"{key[:32]}.npy"


@dataclass(frozen=True)
class TowerCache:
    """Where a run keeps the outputs of its locked image tower, and how it computes missing ones.

    `pool` maps uint8 images on `mesh` to the tower's outputs [B Dv]. If `folder` is in a workdir in a bucket, `workdir`
    is that workdir: the files are kept there and copied here at each start. `progress(done, total)` is called after
    each batch, and can raise.
    """

    folder: Path
    pool: Callable[[np.ndarray], jax.Array]
    decode: Callable[[bytes], np.ndarray]
    mesh: Mesh
    batch_size: int
    on_bad_record: str = "skip"
    max_broken: float = 0.01
    workdir: Workdir | None = None
    dtype: str = "float32"  # The dtype of the file, a name in `cached_rows.DTYPES`.

    def pooled(
        self, key: str, source: Source, progress: Callable[[int, int], None] | None = None
    ) -> Float[np.ndarray, "R Dv"]:
        """The outputs for every picture of `source`, in order, memory-mapped from the file named by `key`.

        They are computed if the file is missing or damaged; it gets its name only when it is complete. A picture that
        cannot be read has a row of NaN. Each of several processes reads its part of the pictures, and the main process
        writes.
        """
        path = path_of(self.folder, key)

        def compute(draft: Draft | None, first: int) -> None:
            self._compute(draft, source, first, progress)

        fill((path,), self.workdir, lambda: self._is_whole(path, len(source)), compute, self.dtype)
        return open_rows(path, len(source))

    def _is_whole(self, path: Path, count: int) -> bool:
        return is_whole(path, lambda: open_rows(path, count))

    def _compute(
        self, draft: Draft | None, source: Source, first: int, progress: Callable[[int, int], None] | None
    ) -> None:
        """Appends the rows from record `first` on; only the main process has a draft."""
        done = first
        batches = image_batches(
            source,
            self.decode,
            batch_size=self.batch_size,
            shard=process_shard(),
            on_bad_record=self.on_bad_record,
            max_bad_share=self.max_broken,
            first=first,
        )
        for batch in batches:
            placed = put_batch(batch, self.mesh)
            rows, index, mask = (
                fetch(x) for x in (self.pool(placed["images"]), placed["index"], placed["mask"])
            )
            count = int(np.count_nonzero(index >= 0))
            done += count
            if draft is not None:  # The rows of a batch are in order, with padding rows last.
                draft.append(np.where(mask[:, None], rows, np.float32(np.nan))[index >= 0], count)
            if progress:
                progress(done, len(source))


def fill(
    paths: tuple[Path, ...],
    workdir: Workdir | None,
    whole: Callable[[], bool],
    compute: Callable[[Draft | None, int], None],
    dtype: str = "float32",
) -> None:
    """Ensures that the files `paths` of a cache exist and are intact; the first file holds the rows.

    `compute(draft, first)` appends the rows from record `first` on, in all processes; the main process has the draft,
    which the next start continues if this one is stopped.
    """

    def bring() -> None:
        for path in paths:
            if workdir is not None and not path.is_file():
                pull(workdir, f"{path.parent.name}/{path.name}")

    bring()
    if broadcast_int(is_main_process() and whole()):
        if is_main_process():
            tidy(paths[0])
    else:
        for path in paths:
            if isinstance(workdir, Bucket):
                path.unlink(missing_ok=True)  # Removes a damaged local copy.
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with Draft(paths[0], dtype) if is_main_process() else nullcontext() as draft:
            compute(draft, broadcast_int(0 if draft is None else draft.records))
            if draft is not None:
                draft.finish()
                if workdir is not None:
                    push(workdir)
        barrier("cache")
        bring()
    for path in paths:
        wait_for(path)


def is_whole(path: Path, opened: Callable[[], CachedRows]) -> bool:
    """Whether a file exists and is intact, as far as that is checked now. `opened` opens its rows."""
    if not path.exists():
        return False
    try:
        rows = opened()
        if rows.nbytes <= MODERATE:
            rows.compare_all()
    except CheckpointError as error:
        log.warning("%s; it is computed again", error)
        if path.is_dir():
            path.rename(path.with_suffix(f"{path.suffix}.damaged"))
        return False
    return True
