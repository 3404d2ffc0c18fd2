"""TFRecord shards by record number and without TensorFlow: an index says where each record starts."""

import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_jax.data.sources.files import Files, stamp
from lit_jax.data.sources.record_index import Columns, open_index
from lit_jax.utils.errors import DataError

# Bytes before the data of a record: its length (8) and a checksum (4). Another checksum (4) follows the data.
_HEAD = 12


class TfRecords:
    """The serialised examples of `shards`, each (path, number to skip, number to take or -1 for all).

    Opening them for the first time reads the lengths of all records. Raises `DataError` for a shard that is cut off.
    """

    def __init__(self, spec: str, shards: Sequence[tuple[str, int, int]]):
        self._files = Files(spec, shards[0][0])
        self._paths = [Files(spec, path).root for path, _, _ in shards]
        infos = {path: self._files.fs.info(path) for path in self._paths}
        names = " ".join(os.path.basename(path) for path in self._paths)
        folder = os.path.dirname(self._paths[0])
        self._index = open_index(self._files, folder, f"tfrecord {names}", stamp(infos), self._scan)
        counts = np.bincount(self._index["shard"], minlength=len(shards))
        firsts = np.cumsum(counts) - counts
        runs = [
            (first + skip, count - skip if take < 0 else take)
            for first, count, (_, skip, take) in zip(firsts, counts, shards, strict=True)
        ]
        self._firsts = np.array([first for first, _ in runs])
        self._ends = np.cumsum([length for _, length in runs])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> bytes:
        run = int(np.searchsorted(self._ends, index, side="right"))
        row = int(self._firsts[run]) + index - (int(self._ends[run - 1]) if run else 0)
        at = int(self._index["at"][row])
        return self._files.read(
            self._paths[self._index["shard"][row]], at, at + int(self._index["size"][row])
        )

    def _scan(self) -> tuple[Columns, dict[str, Any]]:
        columns: dict[str, list[np.ndarray]] = {"shard": [], "at": [], "size": []}
        for shard, path in enumerate(self._paths):
            sizes = []
            self._files.check_permitted(path)
            end = self._files.fs.size(path)
            with self._files.fs.open(path, "rb") as file:
                at = 0
                while at < end:
                    file.seek(at)
                    head = file.read(_HEAD)
                    size = struct.unpack_from("<Q", head)[0] if len(head) == _HEAD else end
                    at += _HEAD + size + 4
                    if at > end:
                        raise DataError(
                            f"{self._files.spec}: shard {os.path.basename(path)} is cut off; fetch it again"
                        )
                    sizes.append(size)
            columns["size"].append(np.array(sizes, np.int64))
            columns["at"].append(np.cumsum(columns["size"][-1] + _HEAD + 4) - columns["size"][-1] - 4)
            columns["shard"].append(np.full(len(sizes), shard, np.int32))
        return {name: np.concatenate(parts) for name, parts in columns.items()}, {}
