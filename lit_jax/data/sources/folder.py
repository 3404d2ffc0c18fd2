"""`folder:DIR`: pictures in a directory, with a table or text files that describe them."""

import hashlib
import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lit_jax.data.sources.base import Record
from lit_jax.data.sources.files import Files
from lit_jax.data.sources.folder_layouts import known_layout
from lit_jax.data.sources.folder_pictures import Pictures
from lit_jax.data.sources.folder_tables import TABLES, Rows
from lit_jax.data.sources.other_sources import hint, hint_of_table
from lit_jax.utils.errors import DataError
from lit_jax.utils.utf8 import writable

METADATA = TABLES[0]
_AHEAD = 1024  # Files that are hashed at once.


class FolderSource:
    """The pictures of a directory, described by the first of these that exists:

    - `metadata.jsonl`, with lines such as `{"file_name": ..., "caption": ...}`. The captions have one of the keys
      `caption`, `captions` and `text` (or another usual name, if no line has these), and are one string or a list; a
      line may lack captions and may have further keys. `id` defaults to the file name. `label` is a class index or a
      class name; `class_names` are then the names of all lines, numbers first and by value.
    - `metadata.csv`, `captions.csv` or `captions.tsv`, whose first line names the columns `file_name` and `caption`
      (or their usual synonyms), `id` and `label`; also `captions.txt` of Flickr8k and `results.csv` of Flickr30k.
    - `a.txt` beside `a.jpg`, or `a.json` with captions, also in subdirectories; the id is the path without its
      extension, which is kept where two paths differ in nothing else.
    - none of these: if every picture is in a subdirectory, each of them is a class; otherwise there are only pictures.

    All rows of a picture form one record with several captions, wherever they stand (see `Rows`). File names are
    relative to the directory and must stay inside it, even when links are followed (the Hub's cache counts as one
    place). A missing file or a caption of the wrong type breaks only its own record. `caption` names another key or
    column for the captions. Raises `DataError`.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, directory: str, caption: str | None = None):
        self.spec = f"folder:{directory}"
        self._arguments = (directory, caption)
        self._files = Files(self.spec, directory, closed=True)
        self._files.check_permitted()
        if not self._files.fs.isdir(self._files.root):
            parent = self.spec.rpartition("/")[0] or "folder:."
            why = "there is no such directory"
            if self._files.fs.isfile(self._files.root):
                names = [] if posixpath.basename(directory) in TABLES else [directory]
                why = hint(names) or hint_of_table(names) or f"{why}; it is a file, give {parent}"
            raise DataError(f"{self.spec}: {why}")
        root = self._files.root.rstrip("/")
        self._table = next((name for name in TABLES if self._files.fs.isfile(f"{root}/{name}")), None)
        self._pictures = root
        self._rows: Rows | Pictures
        if self._table is not None:
            self._rows = Rows(self._files, self._table, caption)
        elif layout := known_layout(self._files):
            self._table, self._pictures = layout.table, f"{root}/{layout.pictures}".rstrip("/")
            self._rows = Rows(self._files, layout.table, caption, layout.dialect)
        else:
            self._rows = Pictures(self._files, caption)
        if not len(self._rows):
            what = f"{self._table} has no records" if self._table else f"holds no {METADATA} and no pictures"
            if not self._table and (why := hint(self._files.below(2))):
                raise DataError(f"{self.spec}: {why}")
            raise DataError(f"{self.spec}: {what}; want a line with file_name and caption for each picture")
        others = [name for name in TABLES if name != self._table and self._files.fs.isfile(f"{root}/{name}")]
        unread = (f"{name} is not read, since {self._table} is there" for name in others)
        self.remarks = (*self._rows.remarks, *unread)
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
            self._files.check(f"{self._pictures}/{name}")
            image = self._files.fs.cat_file(f"{self._pictures}/{name}")
        except DataError:
            raise
        except (OSError, ValueError) as e:  # ValueError: a NUL in the name.
            raise DataError(f"{name!r} cannot be read: {getattr(e, 'strerror', None) or e}") from e
        record = Record(image=image, captions=row["captions"], id=writable(row["id"] or name))
        if label is not None:
            record["label"] = self._label_of[label] if isinstance(label, str) else label
        return record

    def fingerprint(self) -> str:
        """The sha256 of the descriptions and of every picture; it reads them all."""
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
                for part in pool.map(hashed, range(start, min(len(self), start + _AHEAD))):
                    digest.update(part)
        return digest.hexdigest()
