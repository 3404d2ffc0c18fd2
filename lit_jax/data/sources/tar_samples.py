"""The samples of a tar shard: the members whose names agree up to the first dot, wherever they stand."""

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cache
from tarfile import TarInfo
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.sources.remarks import Remarks
from lit_jax.data.sources.tar_members import Hashed, TarMembers
from lit_jax.data.transforms.image_files import EXTENSIONS
from lit_jax.utils import utf8

PARTS = ("image", "txt", "json")
WHERE = ("at", "size")
BOM = b"\xef\xbb\xbf"
_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")  # The endings that are preferred within a sample.
_ALL = frozenset(ending[1:] for ending in EXTENSIONS)
_LATER = ("avif", "avifs")  # Endings that came with version 3 of the index.
_OTHERS = ("txt", "json", "cls")
_LABEL = 1000  # The most bytes that a cls member may have.
_PADDING = 16 << 10  # Up to this many zero bytes at the end of a shard are usual.
_LARGEST = 2**31 - 1  # The largest number of a class.


class Samples(NamedTuple):
    """The samples of a shard that have a picture, in the order of their first members."""

    columns: dict[str, np.ndarray]  # int64 [n]: IMAGE_at, IMAGE_size, ...; label: -1 for none.
    ids: list[str]
    names: list[str]  # Names of classes, into which the labels are indices; empty if labels are numbers.
    numbered: str  # The place of the first label that is a number, or "".
    remarks: Remarks
    changed: list[str]  # The rules that came after version 1 of the index and matter to these samples.
    digest: str  # The sha256 of the shard.


def read_samples(raw: Any, shard: str) -> Samples:
    """Reads the file `raw` to its end; `shard` is its name. Raises `TarDamage`."""
    file, table = Hashed(raw), _Table(shard)
    members = TarMembers(file)
    for member in members:
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, _, ending = name.partition(".")
        if not stem or member.isdir():
            continue
        if not member.isreg() or member.issparse():
            table.remark("Members that are links, sparse or no files are not read", member)
            continue
        table.add(folder + slash + stem, ending.lower(), member, members)
    if members.continued:
        table.changed.add("continued")
        first = f"that at byte {members.continued[0]} of {shard}"
        kind = "Headers follow the zeros that end a tar file, and the members from there on are read too"
        table.remarks.add(kind, first, len(members.continued))
    if members.unended and table.ids:
        kind = "Shards end without the zeros that end a tar file, so they may be cut off"
        table.remarks.add(kind, f"{shard} at byte {file.size}")
    if members.zeros > _PADDING:
        kind = "Shards end with more zeros than tar writes, so parts of them may not have been fetched"
        table.remarks.add(kind, f"{shard}, whose last {members.zeros:,} bytes are zeros")
    return table.samples(file.digest.hexdigest())


@cache
def _bit(ending: str) -> int:
    """A bit for each ending that is read, and 0 for the others."""
    known = (*sorted(_ALL), *_OTHERS)
    return 1 << known.index(ending) if ending in known else 0


class _Table:
    """The rows of a shard's samples while it is read."""

    def __init__(self, shard: str):
        self.ids: list[str] = []
        self.changed: set[str] = set()
        self.remarks = Remarks()
        self._shard = shard
        self._columns = {f"{part}_{what}": array("q") for part in PARTS for what in WHERE}
        self._labels = array("q")
        self._seen = array("q")  # Bits of the endings that each sample has.
        self._rows: dict[str, int] = {}  # Name of a sample -> the last row of that name.
        self._taken: set[str] = set()  # The ids; no two samples share one.
        self._rare: dict[int, str] = {}  # Rows whose picture has an ending outside _PICTURES -> that ending.
        self._repeated: list[int] = []
        self._last, self._strayed = -1, False
        self._names: dict[str, int] = {}
        self._numbered = ""
        self._unread: Counter[str] = Counter()

    def remark(self, kind: str, member: TarInfo, what: str = "") -> None:
        self.remarks.add(kind, self._place(member) + what)

    def add(self, key: str, ending: str, member: TarInfo, members: TarMembers) -> None:
        """Notes a member of the sample `key`."""
        row = self._row(key, _bit(ending), member)
        if ending in _ALL:
            self._picture(row, ending, member)
        elif ending in PARTS:
            self._set(ending, row, member)
            if members.start(member, len(BOM)) == BOM:
                self.changed.add("bom")
        elif ending == "cls":
            self._labels[row] = self._label(members.start(member, _LABEL + 1), member)
        elif len(self._unread) < 1000:
            self._unread[ending] += 1

    def samples(self, digest: str) -> Samples:
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        columns["label"] = np.array(self._labels, np.int64)
        kept = columns["image_at"] >= 0
        endings = ", ".join(f".{ending} {count}" for ending, count in self._unread.most_common(5))
        where = self._shard + (f" (endings in it that are not read: {endings})" if endings else "")
        if len(missing := np.flatnonzero(~kept)):
            first = f"{self.ids[missing[0]]!r} in {where}"
            self.remarks.add("Samples without a picture are left out", first, len(missing))
        if kept.any() and endings and not self._seen_any(_OTHERS):
            kind = "Pictures stand without a txt, a json or a cls beside them"
            self.remarks.add(kind, where, int(kept.sum()))
        if any(kept[row] for row in self._repeated):
            self.changed.add("repeated")
        if self._rare:
            self.changed.add("endings")
        if any(ending in _LATER for ending in self._rare.values()):
            self.changed.add("later endings")
        return Samples(
            columns={name: column[kept] for name, column in columns.items()},
            ids=[key for key, keep in zip(self.ids, kept, strict=True) if keep],
            names=list(self._names),
            numbered=self._numbered,
            remarks=self.remarks,
            changed=sorted(self.changed),
            digest=digest,
        )

    def _seen_any(self, endings: Sequence[str]) -> bool:
        """Whether any sample has a member with one of these endings."""
        wanted = sum(map(_bit, endings))
        return any(seen & wanted for seen in self._seen)

    def _row(self, key: str, bit: int, member: TarInfo) -> int:
        """The row of the sample `key`; a new one if the sample has a member with this ending already."""
        row = self._rows.get(key, -1)
        if row < 0 or self._seen[row] & bit:
            if row >= 0:
                kind = "Members whose name occurs once more in their shard belong to samples of their own"
                self.remark(kind, member)
                self._repeated.append(len(self.ids))
            row, self._strayed = self._new(key), False
        elif row != self._last:
            self._strayed = True
        if self._strayed and bit:
            self.changed.add("scattered")
        self._seen[row] |= bit
        self._last = row
        return row

    def _new(self, key: str) -> int:
        row, name, number = len(self.ids), key, 1
        while name in self._taken:
            number += 1
            name = f"{key}#{number}"
        self._rows[key] = row
        self._taken.add(name)
        self.ids.append(name)
        self._seen.append(0)
        self._labels.append(-1)
        for column in self._columns.values():
            column.append(-1)
        return row

    def _picture(self, row: int, ending: str, member: TarInfo) -> None:
        usual = ending in _PICTURES
        if self._columns["image_at"][row] >= 0:
            self.remark("Pictures beside another picture of their sample are not read", member)
            if not usual or row not in self._rare:
                return
            del self._rare[row]
        self._set("image", row, member)
        if not usual:
            self._rare[row] = ending

    def _set(self, part: str, row: int, member: TarInfo) -> None:
        self._columns[f"{part}_at"][row] = member.offset_data
        self._columns[f"{part}_size"][row] = member.size

    def _label(self, data: bytes, member: TarInfo) -> int:
        """The number that a cls member holds, or the index of its name in `_names`; -1 for neither."""
        try:
            text = utf8.decode(data).strip()
        except ValueError:
            text = "\0"
        if text in ("", "-1"):  # webdataset and TFDS write -1 for "unknown".
            self.remark("Members cls that are empty or -1 give no label", member)
            return -1
        number = re.fullmatch(r"[+-]?[0-9]+", text) is not None
        if len(data) > _LABEL or not text.isprintable() or (number and not 0 <= int(text) <= _LARGEST):
            held = f", which holds {data[:20]!r}"
            self.remark(
                "Members cls that hold neither the number nor the name of a class give no label", member, held
            )
            return -1
        if number:
            self._numbered = self._numbered or self._place(member)
            return int(text)
        return self._names.setdefault(text, len(self._names))

    def _place(self, member: TarInfo) -> str:
        return f"{member.name!r} at byte {member.offset} of {self._shard}"
