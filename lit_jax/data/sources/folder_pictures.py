"""The pictures below a directory that has no table: texts beside them describe them, or directories are classes."""

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import pyarrow as pa

from lit_jax.data.sources.base import class_order, counted, decode_utf8
from lit_jax.data.sources.files import Files
from lit_jax.data.sources.folder_json import captions_in
from lit_jax.data.sources.folder_layouts import check_splits, check_tables, directories, is_hidden
from lit_jax.data.sources.folder_rows import Row
from lit_jax.data.sources.folder_tables import TABLES
from lit_jax.data.sources.other_sources import hint_of_table
from lit_jax.data.sources.split_names import is_split
from lit_jax.data.transforms.image_files import FORMATS, HEAD, is_picture, starts_like_picture
from lit_jax.utils.errors import DataError
from lit_jax.utils.utf8 import writable

# Endings of files that are not looked into; every other file may be a picture.
_NO_PICTURES = (
    *(".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".html", ".xml", ".yaml", ".yml", ".py", ".log"),
    *(".parquet", ".arrow", ".tar", ".zip", ".gz", ".npy", ".npz", ".pt", ".mp4", ".safetensors"),
)
_LOOKED = 8  # .json files that are read to learn whether they hold captions.
# Nobody expects these to be records: a readme, what a system leaves behind, what img2dataset says about a shard.
_BESIDES = re.compile(
    r"(readme|license|citation)\b.*|thumbs\.db|desktop\.ini|\d+(\.parquet|_stats\.json)", re.I
)


class Pictures:
    """The pictures below a directory, sorted by path; `a.txt` is the caption of `a.jpg`.

    If no picture has such a file, the captions are those of `a.json`. If there is none either, the subdirectories are
    the classes if every picture is in one; otherwise the pictures have neither captions nor classes. `caption` is the
    key in `a.json`; if it is given, `a.json` comes first. A file counts as a picture by its extension or, if that is
    not of another known kind, by its content. `remarks` say what is left out. Raises `DataError` for a directory that
    means something else: a split of a set in each subdirectory, or a table elsewhere.
    """

    def __init__(self, files: Files, caption: str | None = None):
        self._files, self._root, self._caption = files, files.root.rstrip("/"), caption
        found = [path[len(self._root) + 1 :] for path in files.fs.find(self._root)]
        every = sorted(name for name in found if not is_hidden(name))
        others, links = self._by_content([name for name in every if _may_be_picture(name)])
        names = sorted([*filter(is_picture, every), *others])
        self._ending = self._text_ending(names, set(every))
        classes: set[str] = set()
        if self._ending is None:
            check_tables(files, every, TABLES)
            if all("/" in name for name in names):
                check_splits(files, names)
                classes = {writable(name.split("/")[0]) for name in names}
        self.class_names = tuple(class_order(classes))
        self._names = pa.array([name.encode("utf-8", "surrogateescape") for name in names], pa.large_binary())
        stems = Counter(map(_stem, names))
        self._shared = frozenset(stem for stem, times in stems.items() if times > 1)
        self._whole = False  # Whether every id keeps its ending.
        self._whole = bool(self._shared) and len(set(map(self._id, names))) < len(names)
        self.remarks = tuple(self._remarks(every, names, links)) if names else ()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        name: str = self._names[index].as_py().decode("utf-8", "surrogateescape")
        captions, label = [], None
        if self._ending is not None:
            captions = self._captions(f"{_stem(name)}{self._ending}") or []
        elif self.class_names:
            label = writable(name.split("/")[0])
        return Row(file_name=name, captions=captions, id=self._id(name), label=label)

    def _captions(self, beside: str) -> list[str] | None:
        text = decode_utf8(self._files.read(f"{self._root}/{beside}"), f"{beside!r}")
        return captions_in(text, beside, self._caption) if beside.endswith(".json") else [text.rstrip("\r\n")]

    def _id(self, name: str) -> str:
        stem = _stem(name)
        return name if self._whole or stem in self._shared else stem

    def _by_content(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Which of these files begin like a picture, and which are links to directories."""

        def looked(name: str) -> bool | None:
            path = f"{self._root}/{name}"
            try:
                self._files.check(path, sys.maxsize)
                return starts_like_picture(self._files.fs.cat_file(path, start=0, end=HEAD))
            except (OSError, ValueError):
                return None if self._files.fs.isdir(path) else False

        with ThreadPoolExecutor(16) as pool:
            found = list(zip(names, pool.map(looked, names), strict=True))
        return [name for name, yes in found if yes], [name for name, yes in found if yes is None]

    def _text_ending(self, names: Sequence[str], every: Collection[str]) -> str | None:
        """The ending of the files that describe the pictures; None if there are none."""
        if self._caption is None and any(f"{_stem(name)}.txt" in every for name in names):
            return ".txt"
        beside = (f"{_stem(name)}.json" for name in names if f"{_stem(name)}.json" in every)
        for name in islice(beside, _LOOKED):
            with suppress(DataError):
                if self._captions(name):
                    return ".json"
        return ".txt" if any(f"{_stem(name)}.txt" in every for name in names) else None

    def _remarks(self, every: Sequence[str], names: Sequence[str], links: Sequence[str]) -> Iterator[str]:
        if self._caption is not None and self._ending != ".json":
            yield (
                f"no .json file beside a picture has {self._caption!r}, so it is not read"
                + (", and the captions are those of the .txt files" if self._ending else "")
            )
        stems, pictures = set(map(_stem, names)), set(names)
        described = self._ending is not None
        out = [name for name in every if name not in pictures and not _BESIDES.fullmatch(_base(name))]
        out = [
            name
            for name in out
            if not (described and name.endswith((".txt", ".json")) and _stem(name) in stems)
        ]
        if out := [name for name in out if name not in set(links)]:
            kinds = Counter(_ending(name) for name in out).most_common(5)
            yield (
                f"{counted(len(out), 'file is', 'files are')} left out, being no {', '.join(FORMATS)} picture "
                f"({', '.join(f'{times} {kind}' for kind, times in kinds)}; the first is {out[0]!r})"
            )
        if not described and (table := hint_of_table(out)):
            yield table
        if links:
            yield f"links to directories are not followed: {len(links)} (the first is {links[0]!r})"
        if described:
            yield from self._of_texts(set(every), names)
        elif self.class_names:
            yield from self._of_classes(out)
        if self._shared:
            several = [name for name in names if _stem(name) in self._shared]
            yield (
                f"{len(several)} pictures have the name of another one except for the ending (the first is "
                f"{several[0]!r}); their id is the whole file name"
            )

    def _of_texts(self, every: Collection[str], names: Sequence[str]) -> Iterator[str]:
        if alone := [name for name in names if f"{_stem(name)}{self._ending}" not in every]:
            yield (
                f"{counted(len(alone), 'picture', 'pictures')} without a {self._ending} file beside it, each a broken "
                f"record (the first is {alone[0]!r})"
            )
        heads = {name.partition("/")[0] for name in names}
        if len(heads) > 1 and all(map(is_split, heads)):
            yield (
                f"the splits {', '.join(sorted(heads))} are read as one set; name one of them, as in "
                f"{self._files.spec.rstrip('/')}/{min(heads)}"
            )

    def _of_classes(self, left_out: Sequence[str]) -> Iterator[str]:
        files = Counter(name.partition("/")[0] for name in left_out if "/" in name)
        empty = [name for name in directories(self._files, self._root) if name not in self.class_names]
        if empty := sorted({*empty, *(name for name in files if name not in self.class_names)}):
            shown = ", ".join(f"{name!r} with {counted(files[name], 'file', 'files')}" for name in empty[:5])
            yield (
                f"{counted(len(empty), 'directory holds', 'directories hold')} no usable picture, and "
                f"{'is no class' if len(empty) == 1 else 'are no classes'}: {shown}"
            )
        if len(self.class_names) == 1:
            yield f"all pictures are in one directory, {self.class_names[0]!r}, so there is one class"


def _may_be_picture(name: str) -> bool:
    return not is_picture(name) and not name.lower().endswith(_NO_PICTURES)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    """The path without its extension, if it has one."""
    folder, slash, base = name.rpartition("/")
    stem, dot, _ = base.rpartition(".")
    return f"{folder}{slash}{stem if dot else base}"


def _ending(name: str) -> str:
    base = _base(name)
    return f".{base.rpartition('.')[2].lower()}" if "." in base else "without ending"
