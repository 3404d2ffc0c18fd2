"""`wds:`: tar shards as img2dataset and webdataset write them, read by seeking."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from lit_jax.data.sources.base import CAPTIONS, Record, counted, decode_utf8, texts_of
from lit_jax.data.sources.files import Files, reason, stamp
from lit_jax.data.sources.record_index import Columns, open_index
from lit_jax.data.sources.remarks import Remarks
from lit_jax.data.sources.split_names import is_split, remarks_on_splits
from lit_jax.data.sources.tar_members import TarDamage
from lit_jax.data.sources.tar_samples import PARTS, WHERE, Samples, read_samples
from lit_jax.utils import strict_json
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)
_CLASSES, _TYPE = "classnames.txt", "dataset_type.txt"  # As clip_benchmark writes them.
_RETRIEVAL = "retrieval"  # The type of a set with a caption in each line of a txt member.
_SLACK = 16 << 10  # Bytes between the members of a record that one read may include.
_RULES = 3  # Version of the rules by which shards are read; an index made by other rules is made again.


class WebDatasetSource:
    """The samples of tar shards, sorted by shard name: a sample is the members whose names agree up to the first dot.

    The members of a sample may stand anywhere in its shard. A sample with a picture (jpg, png, webp, gif, bmp, avif
    and their synonyms) is a record; its `id` is the common name. A member's name that occurs again in its shard begins
    another sample, `NAME#2`. The captions are the list `captions` of the json member, else the text of the txt member,
    else `caption` or `text` of the json; `caption` names another key. A `cls` member is the label, a number or the name
    of a class, and an empty one or -1 means no label; `classnames.txt` beside the shards or above the folder of a split
    such as `test` names the classes. If `dataset_type.txt` there says `retrieval`, each line of a txt is a caption.

    `where` is a file, a directory or a pattern, also with braces (`{000..012}.tar`), or a list, `a.tar::b.tar`.

    Opening the shards for the first time reads them completely to make an index. The index contains the position of
    each record, the sha256 of each shard and the `remarks` on what was left out; it is made again if the size or the
    time of a shard changes. Raises `DataError` for a shard that is cut off or damaged, and names the byte.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, where: str, caption: str | None = None):
        self.spec = f"wds:{where}"
        self._files = Files(self.spec, where, several=True)
        shards = self._files.glob(".tar")
        self._shards = list(shards)
        self._caption, self._arguments = caption, (where, caption)
        folder = os.path.dirname(self._shards[0])
        name = os.path.relpath(self._files.root, folder) if self._files.local else self._files.root
        if "::" in where:
            name = where
        self._index = open_index(
            self._files, folder, f"wds {name}", [_RULES, *stamp(shards)], self._make_index
        )
        if not len(self._index):
            noticed = " ".join(self._index.about["remarks"])
            raise DataError(
                f"{self.spec}: no picture in its {counted(len(self._shards), 'shard', 'shards')}; want members such as "
                "000.jpg and 000.txt" + (f" ({noticed})" if noticed else "")
            )
        labels = self._index["label"]
        self.class_names: tuple[str, ...] | None = None
        self._class_of: np.ndarray | None = None
        if (labels >= 0).any():
            self.class_names, self._class_of = self._classes(folder)
        kind = self._beside(folder, _TYPE)
        text = "" if kind is None else decode_utf8(self._files.read(kind), f"{self.spec}: {_TYPE}")
        self._a_line_each = text.strip().lower() == _RETRIEVAL
        self.remarks: tuple[str, ...] = (*remarks_on_splits(shards), *self._index.about["remarks"])
        if (labels >= 0).any() and self.class_names is None:
            self.remarks += (
                f"The classes are numbers without names, up to {labels.max()}; write their names, one per line, to "
                f"{_CLASSES} beside the shards.",
            )

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
        if (label := int(self._index["label"][index])) >= 0:
            record["label"] = label if self._class_of is None else int(self._class_of[label])
        return record

    def fingerprint(self) -> str:
        """The sha256 of the names and the sha256s of the shards when they were indexed."""
        names = [os.path.basename(shard) for shard in self._shards]
        parts = [names, self._index.about["sha256"], self._caption, self.class_names]
        changed = self._index.about["changed"] + (["lines"] if self._a_line_each else [])
        if changed:  # Earlier rules gave other records.
            parts.append(changed)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _beside(self, folder: str, name: str) -> str | None:
        """The file of that name in the folder of the shards or, which splits share, in that above; None if missing."""
        above, _, own = folder.rpartition("/")
        places = [folder, above] if is_split(own) else [folder]
        return next((path for place in places if self._files.fs.exists(path := f"{place}/{name}")), None)

    def _read(self, index: int) -> dict[str, bytes]:
        """The bytes of each part of the record, in one read if they are close together."""
        shard = self._shards[self._index["shard"][index]]
        ends = {}
        for part in PARTS:
            at, size = (int(self._index[f"{part}_{what}"][index]) for what in WHERE)
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
            text = decode_utf8(parts["json"], "json member")
            try:
                row = strict_json.parse(text)
            except ValueError as e:
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
            text = decode_utf8(parts["txt"], "txt member")
            return text.splitlines() if self._a_line_each else [text]
        key = next((key for key in CAPTIONS if row.get(key) is not None), None)
        return texts_of(row[key], key) if key else []

    def _classes(self, folder: str) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
        """The names of the classes; and, if cls members hold names, the class of each number in the index."""
        own = self._index.about["classes"]
        if (path := self._beside(folder, _CLASSES)) is None:
            return tuple(own) or None, None
        lines = decode_utf8(self._files.read(path), f"{self.spec}: {_CLASSES}")
        names = tuple(line.strip() for line in lines.rstrip().split("\n"))
        if "" in names:
            raise DataError(
                f"{self.spec}: line {names.index('') + 1} of {_CLASSES} is empty; want the name of a class in each"
            )
        if unknown := [name for name in own if name not in names]:
            raise DataError(
                f"{self.spec}: a cls member holds {unknown[0]!r}, which {_CLASSES} does not name; name it there"
            )
        if own:
            return names, np.array([names.index(name) for name in own])
        if (largest := int(self._index["label"].max())) >= len(names):
            raise DataError(f"{self.spec}: label {largest}, but {_CLASSES} names {len(names)} classes")
        return names, None

    def _make_index(self) -> tuple[Columns, dict[str, Any]]:
        _log.info("indexing %s of %s, once", counted(len(self._shards), "shard", "shards"), self.spec)
        with ThreadPoolExecutor(min(cores(), 16)) as pool:
            made = list(pool.map(self._scan, self._shards))
        columns: dict[str, Any] = {
            name: np.concatenate([samples.columns[name] for samples in made]) for name in made[0].columns
        }
        counts = [len(samples.ids) for samples in made]
        columns["shard"] = np.repeat(np.arange(len(made), dtype=np.int32), counts)
        columns["key"] = pa.concat_arrays([pa.array(samples.ids, pa.large_string()) for samples in made])
        remarks = Remarks()
        remarks.merge(samples.remarks for samples in made)
        classes = self._join_classes(columns, made, counts)
        self._note_ids(columns, remarks)
        return columns, {
            "sha256": [samples.digest for samples in made],
            "classes": classes,
            "remarks": remarks.sentences(),
            "changed": sorted({rule for samples in made for rule in samples.changed}),
        }

    def _join_classes(self, columns: dict[str, Any], made: Sequence[Samples], counts: list[int]) -> list[str]:
        """The sorted names of the classes of all shards; labels become indices into them."""
        names = sorted({name for samples in made for name in samples.names})
        numbered = next((samples.numbered for samples in made if samples.numbered), "")
        if names and numbered:
            raise DataError(
                f"{self.spec}: cls members hold numbers ({numbered}) and names ({names[0]!r}); want one kind"
            )
        if names:
            number = {name: i for i, name in enumerate(names)}
            ends = np.cumsum(counts)
            for samples, end, count in zip(made, ends, counts, strict=True):
                # The label -1 picks the last one.
                joined = np.array([*(number[name] for name in samples.names), -1])
                columns["label"][end - count : end] = joined[samples.columns["label"]]
        return names

    def _note_ids(self, columns: dict[str, Any], remarks: Remarks) -> None:
        """Remarks on ids that name several records."""
        codes = columns["key"].dictionary_encode().indices.to_numpy()
        _, first = np.unique(codes, return_index=True)
        if len(first) < len(codes):
            again = np.ones(len(codes), bool)
            again[first] = False
            row = int(np.argmax(again))
            place = (
                f"{columns['key'][row].as_py()!r} in {os.path.basename(self._shards[columns['shard'][row]])}"
            )
            remarks.add("Records have the id of an earlier one in another shard", place, int(again.sum()))

    def _scan(self, shard: str) -> Samples:
        name = os.path.basename(shard)
        try:
            with self._files.fs.open(shard, "rb") as raw:
                return read_samples(raw, name)
        except TarDamage as e:
            raise DataError(
                f"{self.spec}: shard {name} is not a complete tar file: at byte {e.at}, {e}"
            ) from e
        except OSError as e:
            raise DataError(f"{self.spec}: shard {name} cannot be read: {reason(e)}") from e
