"""What else people give as a source, and the way from there to one that is read."""

import posixpath
import re
from collections.abc import Iterable, Sequence

from lit_jax.utils.other_formats import ARCHIVE, Other, other_of

STATE = "state.json"  # Beside a dataset_info.json, it shows that the package datasets wrote both.
ARROW_SPLITS = "dataset_dict.json"  # That package's list of splits, each in a directory.
_WRITE = "write its records as tar shards or parquet (docs/data.md)"
_ON_THE_HUB = re.compile(
    r"((https?://)?(huggingface\.co|hf\.co)/datasets/|hf:(//)?datasets/|datasets/)?"
    r"(?P<id>[\w.-]+/[\w.-]+)(/(tree|viewer|blob)/.*)?/?"
)
_TABLE = Other(
    r".*\.(csv|tsv|jsonl|xlsx?)",
    "a table",
    "if it has the captions, name it metadata.csv or metadata.jsonl, with file_name and caption in each row, and give "
    "its directory",
)
_PACKED = Other(
    r".*\.(csv|tsv|jsonl?)\.(gz|bz2|xz|zst|zip)",
    "a compressed table",
    "if it has the captions, unpack it to metadata.csv or metadata.jsonl, and give its directory",
)
_JSON = Other(
    r"(annotations?|captions?|metadata|llava.*)\.json",
    "a table that is one JSON value",
    "if it has the captions, write its rows to metadata.jsonl, with file_name and captions in each line",
)
_OTHERS = (
    Other(r".*\.tar", "a tar", "give tar shards as wds:DIR"),
    Other(r".*\.parquet", "a parquet file", "give it as parquet:DIR"),
    Other(
        rf"{re.escape(ARROW_SPLITS)}|{re.escape(STATE)}|.*\.arrow",
        "a part of what save_to_disk of the package datasets wrote",
        "give it as arrow:DIR",
    ),
    Other(
        r".*\.(tgz|tar\.(gz|bz2|xz|zst))",
        "a compressed tar",
        "unpack it to .tar, for instance with gunzip, bunzip2, unxz or unzstd",
    ),
    ARCHIVE,
    Other(
        r".*\.tfrecords?(-\d+-of-\d+)?",
        "a file of TFRecords without the dataset_info.json of TensorFlow Datasets",
        _WRITE,
    ),
    Other(r".*\.mds(\.zstd)?", "a shard of MosaicML's streaming", _WRITE),
    Other(r".*\.mdb", "a database of LMDB", _WRITE),
    Other(r".*\.beton", "a file of FFCV", _WRITE),
    Other(r".*\.(h5|hdf5)", "a file of HDF5", _WRITE),
    Other(r".*\.(npy|npz)", "an array of NumPy", _WRITE),
    Other(r".*\.(sqlite3?|db)", "a database of SQLite", _WRITE),
    Other(r".*\.lance", "a table of Lance", _WRITE),
    Other(
        r".*\.(heic|heif|tiff?|jxl|jp2|dng|cr2|nef|arw|svg)",
        "a picture of a format that is not read",
        "write it as JPEG or PNG",
    ),
    Other(r".*\.(mp4|mov|avi|mkv|webm)", "a video", "write its frames as JPEG"),
)


def hint_of_name(spec: str) -> str:
    """How to give the set of the Hugging Face Hub that has this address or id; "" for any other name."""
    found = _ON_THE_HUB.fullmatch(spec)
    return f"a set of the Hub is given as parquet:hf://datasets/{found['id']}" if found else ""


def hint(names: Iterable[str]) -> str:
    """What the first of these files of a known kind that is not read is; "" if all are unknown."""
    return _hint(names, _OTHERS)


def hint_of_table(names: Iterable[str]) -> str:
    """What is said of the first of these files that may be a table; "" if there is none."""
    return _hint(names, (_TABLE, _PACKED, _JSON))


def _hint(names: Iterable[str], others: Sequence[Other]) -> str:
    for name in names:
        if posixpath.basename(name).startswith("."):
            continue  # A hidden file, such as our own index.
        if other := other_of(posixpath.basename(name), others):
            return f"{name} is {other.what}: {other.way}"
    return ""
