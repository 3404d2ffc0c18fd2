"""How well-known sets are laid out in a folder: which of their tables are read, and what is said of the others."""

import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from lit_jax.data.sources.files import Files
from lit_jax.data.sources.split_names import SPLITS, is_split
from lit_jax.utils.errors import DataError

# Directories that a system creates: Synology's thumbnails, macOS's file attributes, recycle bins.
_SYSTEM = frozenset(
    {"@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
_DIALECTS: dict[str, dict[str, Any]] = {
    "captions.txt": {"delimiter": ","},  # Flickr8k: image,caption
    "results.csv": {"delimiter": "|", "quotes": False},  # Flickr30k: image_name| comment_number| comment
}
_FIRST = {
    "captions.txt": re.compile(rb'(\xef\xbb\xbf)?"?image"?\s*,\s*"?caption"?\s*'),
    "results.csv": re.compile(rb"(\xef\xbb\xbf)?image_name\s*\|\s*comment_number\s*\|\s*comment\s*"),
}
# Names of tables that are not read -> what they are; `_WAY_OUT` says what to do.
_OTHERS = {
    r"(captions_.*|instances_.*|person_keypoints_.*)\.json": "a file of COCO",
    r"dataset_(coco|flickr8k|flickr30k)\.json": "a file of Karpathy's splits",
    r".*\.token(\.txt)?|results_\d+\.token": "a table of Flickr8k or Flickr30k without column names",
    r"captions\.txt": "a table whose first line is not image,caption",
    r"metadata\.parquet": "a table of an imagefolder in parquet",
}
_HEAD = 4096  # Bytes of a table that are looked at.
_WAY_OUT = (
    "write its rows as metadata.jsonl into the directory of the pictures, a line such as "
    '{"file_name": "a.jpg", "captions": ["..."]} for each (docs/data.md shows how)'
)


class Layout(NamedTuple):
    """A table of a well-known set, how its cells are written, and the directory to which its file names refer."""

    table: str
    dialect: dict[str, Any]
    pictures: str  # "" or "Images/".


def known_layout(files: Files) -> Layout | None:
    """The table of Flickr8k (`captions.txt`) or Flickr30k (`results.csv`) in a folder, or None."""
    root = files.root.rstrip("/")
    for name, first in _FIRST.items():
        path = f"{root}/{name}"
        if not files.fs.isfile(path):
            continue
        files.check(path, sys.maxsize)
        lines = files.fs.head(path, _HEAD).splitlines()
        if lines and first.fullmatch(lines[0]):
            dialect = _DIALECTS[name]
            picture = lines[1].partition(dialect["delimiter"].encode())[0] if len(lines) > 1 else b""
            return Layout(name, dialect, _directory_of(files, picture.decode("utf-8", "replace").strip(' "')))
    return None


def _directory_of(files: Files, picture: str) -> str:
    """The directory of a picture, at most two levels deep, such as "Images/"; "" if it is in none."""
    root, level = files.root.rstrip("/"), [""]
    if not picture or ".." in picture:
        return ""
    for _ in range(3):
        for folder in level:
            if files.fs.isfile(f"{root}/{folder}{picture}"):
                return folder
        level = [f"{folder}{inner}/" for folder in level for inner in directories(files, f"{root}/{folder}")]
    return ""


def other_table(name: str) -> str | None:
    """What is said of a table that is not read; None for any other file."""
    base = name.rpartition("/")[2]
    kind = next((kind for pattern, kind in _OTHERS.items() if re.fullmatch(pattern, base)), None)
    return None if kind is None else f"{name} is {kind}, which is not read; {_WAY_OUT}"


def is_hidden(path: str) -> bool:
    """Whether a path within a folder is hidden or lies in a directory that a system creates."""
    return any(part.startswith(".") or part in _SYSTEM for part in path.split("/"))


def check_splits(files: Files, names: Sequence[str]) -> None:
    """Raises `DataError` if the directories of these pictures are the splits of a set, not classes."""
    prefix = ""
    heads = {name.partition("/")[0] for name in names}
    if len(heads) == 1 and not any(map(is_split, heads)):
        prefix = f"{heads.pop()}/"
        inner = [name.removeprefix(prefix) for name in names]
        if not all("/" in name for name in inner):
            return
        heads = {name.partition("/")[0] for name in inner}
    if heads and all(map(is_split, heads)):
        raise DataError(
            f"{files.spec}: the directories {', '.join(sorted(heads))} are splits, not classes; name one of them: "
            f"{files.spec.rstrip('/')}/{prefix}{min(heads)}"
        )


def check_tables(files: Files, names: Collection[str], tables: Sequence[str]) -> None:
    """Raises `DataError` if the captions are in a table that is not read, or in the table of a subdirectory."""
    for name in sorted(names, key=lambda name: (name.count("/"), name)):
        if (why := other_table(name)) is not None:
            raise DataError(f"{files.spec}: {why}")
        folder, _, base = name.rpartition("/")
        if folder and base in tables:
            raise DataError(
                f"{files.spec}: its table {base} is in {folder}; name that directory: "
                f"{files.spec.rstrip('/')}/{folder}"
            )


def directories(files: Files, path: str) -> list[str]:
    """The sorted names of the directories in `path`, without the hidden ones."""
    listed = files.fs.ls(path, detail=True)
    names = [info["name"].rstrip("/").rpartition("/")[2] for info in listed if info["type"] == "directory"]
    return sorted(name for name in names if not is_hidden(name))


def is_layout(names: Collection[str]) -> bool:
    """Whether these entries of a directory are those of a well-known set, which `folder:` reads or refuses by name."""
    lower = {name.lower() for name in names}
    return bool(lower & (_FIRST.keys() | SPLITS | {"annotations"})) or any(map(other_table, names))


def is_img2dataset(names: Collection[str]) -> bool:
    """Whether these are the entries of img2dataset's `files`: 00000.parquet describes the pictures in 00000."""
    return any(name.endswith(".parquet") and name.removesuffix(".parquet") in names for name in names)
