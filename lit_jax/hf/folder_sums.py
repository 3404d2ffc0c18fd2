"""The sums of a model folder, compared before it is read."""

import functools
import logging
from pathlib import Path

from lit_jax.utils import checksums
from lit_jax.utils.errors import WeightError
from lit_jax.utils.log_once import log_once

log = logging.getLogger(__name__)


def check(folder: Path) -> None:
    """Raises WeightError if a file of `folder` differs from its SHA256SUMS, which `lit-jax export` writes.

    A folder without sums passes, and so do files that are not there, since not every use needs all of them. Unchanged
    files are compared only once per process.
    """
    if not (folder / checksums.NAME).is_file():
        return
    try:
        sums = checksums.listed(folder)
    except (OSError, ValueError) as error:
        log_once(log, logging.WARNING, f"{folder}/{checksums.NAME} {error}; the files are read unchecked")
        return
    for name, digest in sums.items():
        path = folder / name
        if checksums.leaves(name) or not path.is_file():
            continue
        status = path.stat()
        if why := _difference(folder, name, digest, status.st_size, status.st_mtime_ns):
            raise WeightError(
                f"{folder}: {why}; copy the folder again, or, if you changed the file yourself, delete {checksums.NAME}"
            )


@functools.lru_cache(maxsize=1024)
def _difference(folder: Path, name: str, digest: str, size: int, changed: int) -> str | None:
    return checksums.difference(folder, name, digest)
