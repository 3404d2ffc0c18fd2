"""The chosen records of a source, each with its chosen captions."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lit_jax.data.sources.base import Record, Source
from lit_jax.utils import npy

_RECORDS, _STARTS, _CAPTIONS = "records.npy", "starts.npy", "captions.npy"


class Kept:
    """The records of `source` that `write_choice` has written into `folder`; worker processes map the same files."""

    def __init__(self, source: Source, folder: Path):
        self._source, self._folder = source, folder
        self._records = npy.load(folder / _RECORDS, mmap_mode="r")
        self._captions = None
        if (folder / _CAPTIONS).is_file():
            self._captions = npy.load(folder / _CAPTIONS, mmap_mode="r")
            self._starts = npy.load(folder / _STARTS, mmap_mode="r")
        self.spec = f"{source.spec}[{len(self._records)} records]"
        self.class_names = source.class_names
        self.description = getattr(source, "description", None)
        self.license = getattr(source, "license", None)

    def __reduce__(self) -> tuple[type["Kept"], tuple[Source, Path]]:
        return Kept, (self._source, self._folder)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._source[int(self._records[index])]
        if self._captions is None:
            return record
        numbers = self._captions[self._starts[index] : self._starts[index + 1]].tolist()
        captions = [record["captions"][number] for number in numbers]
        return Record(**record | {"captions": captions})  # type: ignore[typeddict-item]

    def fingerprint(self) -> str:
        """The sha256 of the fingerprint of `source` and of the choice."""
        digest = hashlib.sha256(self._source.fingerprint().encode())
        for values in (self._records, *(() if self._captions is None else (self._starts, self._captions))):
            digest.update(repr(values.shape).encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def write_choice(folder: Path, records: Int[np.ndarray, "n"], captions: Int[np.ndarray, "n"] | None) -> None:
    """Writes a choice: pairs of a record and a caption in ascending order, or, without captions, records alone."""
    if captions is None:
        np.save(folder / _RECORDS, records)
        return
    unique, starts = np.unique(records, return_index=True)
    np.save(folder / _RECORDS, unique)
    np.save(folder / _STARTS, np.append(starts, len(records)))
    np.save(folder / _CAPTIONS, captions)
