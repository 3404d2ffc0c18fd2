"""`folder:DIR`: pictures in a directory, and what describes them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lit_jax.data.sources.base import Record
from lit_jax.data.sources.files import Files
from lit_jax.data.sources.folder_tables import TABLES, Pictures, Rows
from lit_jax.utils.errors import DataError

METADATA = TABLES[0]
_AHEAD = 1024  # Files that are being hashed at once.


class FolderSource:
    """The pictures of a directory, described by the first of these that is there:

    - `metadata.jsonl`, lines such as `{"file_name": ..., "caption": ...}`. The captions are under one of `caption`,
      `captions` and `text`, one string or a list; a line may have none. `id` defaults to the file name. `label` is a
      class index, or a class name, in which case `class_names` are the sorted names of all lines.
    - `metadata.csv`, `captions.csv` or `captions.tsv`, whose first line names the columns `file_name` and `caption`
      (or their usual synonyms), `id` and `label`; consecutive rows of one file are one record of several captions.
    - `a.txt` beside `a.jpg`, in subdirectories too; the id is the path without its ending.
    - nothing: then each subdirectory is a class.

    File names are relative to the directory and stay inside it. A file that is missing, or a caption of a wrong type,
    breaks its own record only. `caption` names another key or column. Raises `DataError`.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, directory: str, caption: str | None = None):
        self.spec = f"folder:{directory}"
        self._arguments = (directory, caption)
        self._files = Files(self.spec, directory)
        if not self._files.fs.isdir(self._files.root):
            raise DataError(f"{self.spec}: there is no such directory")
        root = self._files.root.rstrip("/")
        self._table = next((name for name in TABLES if self._files.fs.isfile(f"{root}/{name}")), None)
        self._rows: Rows | Pictures
        if self._table is not None:
            self._rows = Rows(self._files, self._table, caption)
        else:
            self._rows = Pictures(self._files)
        if not len(self._rows):
            what = f"{self._table} has no records" if self._table else f"no {METADATA} in it, nor pictures"
            raise DataError(f"{self.spec}: {what}; want a line with file_name and caption for each picture")
        self.class_names: tuple[str, ...] | None = self._rows.class_names or None
        self._label_of = {name: label for label, name in enumerate(self.class_names or ())}

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderSource, self._arguments

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        name, label = row["file_name"], row["label"]
        try:
            image = self._files.fs.cat_file(f"{self._files.root.rstrip('/')}/{name}")
        except (OSError, ValueError) as e:  # Value: a NUL in the name.
            raise DataError(f"{name!r} cannot be read: {getattr(e, 'strerror', None) or e}") from e
        record = Record(image=image, captions=row["captions"], id=row["id"])
        if label is not None:
            record["label"] = self._label_of[label] if isinstance(label, str) else label
        return record

    def fingerprint(self) -> str:
        """The sha256 of what describes the pictures and of every picture; reads them all."""
        digest = hashlib.sha256(repr((self._table, self.class_names)).encode())

        def hashed(index: int) -> bytes:
            try:
                record = self[index]
            except DataError:
                return b"broken"
            image = hashlib.sha256(record["image"]).hexdigest()
            return repr((image, record["captions"], record["id"], record.get("label"))).encode()

        with ThreadPoolExecutor(16) as pool:
            for start in range(0, len(self), _AHEAD):
                for one in pool.map(hashed, range(start, min(len(self), start + _AHEAD))):
                    digest.update(one)
        return digest.hexdigest()
