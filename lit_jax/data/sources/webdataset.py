"""`wds:`: tar shards as img2dataset and webdataset write them, read by seeking."""

import hashlib
import json
import logging
import os
import tarfile
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from lit_jax.data.sources.base import CAPTIONS, Record, decode_utf8, texts_of
from lit_jax.data.sources.files import Files, stamp
from lit_jax.data.sources.record_index import Columns, open_index
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)
_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
_PARTS = ("image", "txt", "json")
_CLASSES = "classnames.txt"
_SLACK = 16 << 10  # Bytes between the members of a record that one read may include.
_TYPES = {"at": "q", "size": "q"}


class WebDatasetSource:
    """The samples of tar shards, sorted by shard name: a sample is the members whose names agree up to the first dot.

    A sample with a picture (jpg, png, webp, gif or bmp) is a record; its `id` is the common name. Its captions are
    the list `captions` of its json member, else the text of its txt member, else `caption` or `text` of the json;
    `caption` names another key. A `cls` member is its label, and `classnames.txt` beside the shards names the classes.

    Opening the shards for the first time reads them completely to make an index. The index contains the position of
    each record and the sha256 of each shard; it is made again if the size or the time of a shard changes. Raises
    `DataError`.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, where: str, caption: str | None = None):
        self.spec = f"wds:{where}"
        self._files = Files(self.spec, where)
        shards = self._files.glob(".tar")
        self._shards = list(shards)
        self._caption, self._arguments = caption, (where, caption)
        folder = os.path.dirname(self._shards[0])
        name = os.path.relpath(self._files.root, folder) if self._files.local else self._files.root
        self._index = open_index(self._files, folder, f"wds {name}", stamp(shards), self._make_index)
        if not len(self._index):
            raise DataError(
                f"{self.spec}: no picture in its {len(self._shards)} shards; want members such as 000.jpg and 000.txt"
            )
        self._labelled = bool((self._index["label"] >= 0).any())
        self.class_names = self._classes(f"{folder}/{_CLASSES}") if self._labelled else None

    def __reduce__(self) -> tuple[Any, ...]:
        return WebDatasetSource, self._arguments

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        parts = self._read(index)
        record = Record(image=parts["image"], captions=[], id=self._index.text("key", index))
        record["captions"] = self._captions(parts)
        if self._index["label"][index] >= 0:
            record["label"] = int(self._index["label"][index])
        return record

    def fingerprint(self) -> str:
        """The sha256 of the names and the sha256s of the shards when they were indexed."""
        names = [os.path.basename(shard) for shard in self._shards]
        text = json.dumps([names, self._index.about["sha256"], self._caption, self.class_names])
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self, index: int) -> dict[str, bytes]:
        """The bytes of each part of the record, in one read if they are close together."""
        shard = self._shards[self._index["shard"][index]]
        ends = {}
        for part in _PARTS:
            at, size = (int(self._index[f"{part}_{what}"][index]) for what in _TYPES)
            if at >= 0:
                ends[part] = (at, at + size)
        first, last = min(at for at, _ in ends.values()), max(end for _, end in ends.values())
        if last - first > sum(end - at for at, end in ends.values()) + _SLACK:
            return {part: self._files.read(shard, at, end) for part, (at, end) in ends.items()}
        data = self._files.read(shard, first, last)
        return {part: data[at - first : end - first] for part, (at, end) in ends.items()}

    def _captions(self, parts: dict[str, bytes]) -> list[str]:
        row = {}
        if "json" in parts:
            try:
                row = json.loads(decode_utf8(parts["json"], "json member"))
            except (json.JSONDecodeError, RecursionError) as e:
                raise DataError(f"json member is not JSON: {e}") from e
            if not isinstance(row, dict):
                raise DataError(f"json member holds a {type(row).__name__}, want an object")
        if self._caption is not None:
            if self._caption not in row:
                raise DataError(f"json member has no {self._caption!r}; it has {', '.join(row) or 'nothing'}")
            return texts_of(row[self._caption], self._caption)
        if isinstance(row.get("captions"), list):
            return texts_of(row["captions"], "captions")
        if "txt" in parts:
            return [decode_utf8(parts["txt"], "txt member")]
        key = next((key for key in CAPTIONS if row.get(key) is not None), None)
        return texts_of(row[key], key) if key else []

    def _classes(self, path: str) -> tuple[str, ...] | None:
        if not self._files.fs.exists(path):
            return None
        lines = decode_utf8(self._files.read(path), _CLASSES).splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        if (largest := int(self._index["label"].max())) >= len(names):
            raise DataError(f"{self.spec}: label {largest}, but {_CLASSES} names {len(names)} classes")
        return names

    def _make_index(self) -> tuple[Columns, dict[str, Any]]:
        _log.info("indexing the %d shards of %s, once", len(self._shards), self.spec)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            made = list(pool.map(self._scan, self._shards))
        columns: dict[str, Any] = {
            name: np.concatenate([np.frombuffer(columns[name], np.int64) for columns, _, _, _ in made])
            for name in made[0][0]
        }
        columns["shard"] = np.repeat(
            np.arange(len(made), dtype=np.int32), [len(keys) for _, keys, _, _ in made]
        )
        columns["key"] = pa.concat_arrays([keys for _, keys, _, _ in made])
        if without_image := sum(without for _, _, _, without in made):
            _log.warning("%s: %d samples have no picture and are skipped", self.spec, without_image)
        return columns, {"sha256": [digest for _, _, digest, _ in made]}

    def _scan(self, shard: str) -> tuple[dict[str, array], pa.Array, str, int]:
        """Columns and keys of one shard's records, its sha256, and the number of samples without a picture."""
        names = [f"{part}_{what}" for part in _PARTS for what in _TYPES]
        columns = {name: array("q") for name in [*names, "label"]}
        keys: list[str] = []
        without_image = 0
        try:
            with self._files.fs.open(shard, "rb") as raw:
                file = _Hashed(raw)
                for key, sample in _samples(file):
                    if sample["image_at"] < 0:
                        without_image += 1
                        continue
                    keys.append(key)
                    for name, column in columns.items():
                        column.append(sample[name])
                while file.read(1 << 20):
                    pass
        except (tarfile.TarError, OSError, ValueError) as e:
            name = os.path.basename(shard)
            hint = (
                "unpack it to a plain .tar" if name.endswith(("gz", "bz2", "xz", "zst")) else "fetch it again"
            )
            raise DataError(f"{self.spec}: shard {name} is not a complete tar file ({e}); {hint}") from e
        return columns, pa.array(keys, pa.large_string()), file.digest.hexdigest(), without_image


class _Hashed:
    """A file opened by fsspec; everything that is read of it is hashed."""

    def __init__(self, file: Any):
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _samples(file: _Hashed) -> Any:
    """(key, the columns of its row) of each sample; the members of a sample are contiguous."""
    empty = {f"{part}_{what}": -1 for part in _PARTS for what in _TYPES} | {"label": -1}
    current, sample = None, dict(empty)
    with tarfile.open(fileobj=file, mode="r|", bufsize=1 << 14) as tar:  # type: ignore[call-overload]
        for member in tar:
            tar.members = []  # Otherwise it keeps all members in memory.
            folder, slash, name = member.name.removeprefix("./").rpartition("/")
            stem, _, extension = name.partition(".")
            if not member.isfile() or not stem:
                continue
            key, extension = folder + slash + stem, extension.lower()
            if key != current:
                if current is not None:
                    yield current, sample
                current, sample = key, dict(empty)
            part = "image" if extension in _PICTURES else extension
            if part in _PARTS and sample[f"{part}_at"] < 0:
                sample[f"{part}_at"], sample[f"{part}_size"] = member.offset_data, member.size
            elif part == "cls":
                label = tar.extractfile(member).read(20)  # type: ignore[union-attr]
                if not label.strip().isdigit():
                    raise ValueError(f"{member.name} holds {label!r}, want the number of a class")
                sample["label"] = int(label)
    if current is not None:
        yield current, sample
