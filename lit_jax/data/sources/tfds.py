"""`tfds:`: a set that TensorFlow Datasets has prepared, read without TensorFlow."""

import hashlib
import os
import re
from typing import Any

import numpy as np
from etils import epath

from lit_jax.data.sources.base import CAPTIONS, FORMS, IDS, Record, decode_utf8, edges
from lit_jax.data.sources.other_sources import STATE, hint
from lit_jax.data.sources.tfds_folder import FEATURES, INFO, check_shard, reading
from lit_jax.data.sources.tfds_package import tfds
from lit_jax.data.sources.tfrecord import TfRecords
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.inside import denied


class TfdsSource:
    """`NAME[:VERSION]/SPLIT` or `DIR/SPLIT`: the records of one split, or of a slice of one, by number.

    The picture is the feature `image`, or the only image. The captions (a text, or a sequence of texts or of
    `{"text": ...}`) are the feature `caption`, or the first one with a usual name (`captions`, `text` ...). `label` is
    used if it is a whole number. Bytes are returned as stored. No Python object per record is kept. TFDS reads
    ArrayRecord and parquet; tfrecord is read through an index (`TfRecords`). Raises `DataError` if the set is missing,
    has no such split or no image, or is stored in another format.
    """

    def __init__(self, where: str, caption: str | None = None):
        self.spec = f"tfds:{where}"
        self._arguments = (where, caption)
        tfds()  # Reports why TFDS cannot be imported, before its modules are used.
        folder, split = _locate(self.spec, where)
        with reading(self.spec, folder):
            self._open(tfds().builder_from_directory(folder), split, caption)

    def _open(self, builder: Any, split: str | None, caption: str | None) -> None:
        self._dir = epath.Path(builder.data_dir)
        formats = {f.value for f in builder.info.available_file_formats()}
        if not formats & {"array_record", "parquet", "tfrecord"}:
            raise DataError(
                f"{self.spec}: stored as {', '.join(sorted(formats))}, which has no random access; build it again with "
                "file_format='array_record'"
            )
        splits = builder.info.splits
        known = ", ".join(f"{name} ({s.num_examples} records)" for name, s in splits.items())
        if split is None:
            if len(splits) != 1:
                raise DataError(f"{self.spec}: which split? Write {self.spec}/SPLIT with one of {known}")
            (split,) = splits
            self.spec += f"/{split}"
        try:
            chosen = splits[split]
        except (ValueError, KeyError, AssertionError, NotImplementedError) as e:
            raise DataError(f"{self.spec}: no split {split!r}; there are {known}") from e
        if not chosen.num_examples:
            raise DataError(f"{self.spec}: split {split!r} has no records; there are {known}")
        self._split = split
        self._shards = [epath.Path(i.filename) for i in chosen.file_instructions]
        for shard in self._shards:
            check_shard(self.spec, self._dir, shard)

        features = dict(builder.info.features.items())
        self._image = _image_feature(self.spec, features)
        if caption is not None and caption not in features:
            raise DataError(f"{self.spec}: no feature {caption!r}; there are {', '.join(features)}")
        self._captions = caption or next((key for key in CAPTIONS if key in features), None)
        self._id = next((key for key in IDS if key in features), None)
        label = features.get("label")
        self._labelled = label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
        self.class_names = None
        if isinstance(label, tfds().features.ClassLabel) and not _are_numbers(label.names):
            self.class_names = tuple(label.names)
        self.description: str | None = builder.info.description or None
        self.license: str | None = builder.info.as_proto.redistribution_info.license or None
        decoders = {self._image: tfds().decode.SkipDecoding()}
        if formats & {"array_record", "parquet"}:
            records = builder.as_data_source(split, decoders=decoders)
            self._size, self._read = len(records), records.__getitem__
        else:
            examples = TfRecords(self.spec, [(i.filename, i.skip, i.take) for i in chosen.file_instructions])
            make = builder.info.features.deserialize_example_np
            self._size, self._read = len(examples), lambda index: make(examples[index], decoders=decoders)

    def __reduce__(self) -> tuple[Any, ...]:
        return TfdsSource, self._arguments

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            row = self._read(index)
        except (DataError, MemoryError):
            raise
        except Exception as e:
            raise DataError(f"it cannot be read: {first_line(e)}; prepare the set again") from e
        captions = _texts(row[self._captions]) if self._captions else []
        record = Record(image=row[self._image], captions=captions, id=str(index))
        if self._id is not None:
            (record["id"],) = _texts([row[self._id]])
        if self._labelled and row["label"] >= 0:  # -1 means "unknown" in TFDS.
            record["label"] = int(row["label"])
        return record

    def fingerprint(self) -> str:
        """The sha256 of the split, of the metadata that select what is read, and of every shard's size and ends."""
        digest = hashlib.sha256(self._split.encode())
        digest.update((self._dir / FEATURES).read_bytes())
        digest.update(repr((self._captions, self.class_names)).encode())
        for shard in self._shards:
            with shard.open("rb") as f:

                def read(start: int, end: int, f: Any = f) -> bytes:
                    f.seek(start)
                    return f.read(end - start)

                edges(digest, shard.name, f.seek(0, 2), read)
        return digest.hexdigest()


def is_prepared(folder: str) -> bool:
    """Whether this local folder is a set of TensorFlow Datasets; the package datasets also writes a file `INFO`."""
    if not os.path.isfile(f"{folder}/{INFO}"):
        return False
    return not any(name == STATE or re.fullmatch(r"[^.].*\.arrow", name) for name in os.listdir(folder))


def _locate(spec: str, where: str) -> tuple[epath.Path, str | None]:
    """The folder and the split of `where`; the split is None if it names only a directory."""
    from tensorflow_datasets.core.read_only_builder import _find_builder_dir
    from tensorflow_datasets.core.utils.error_utils import record_error_context

    path = epath.Path(os.path.expanduser(where))
    for folder in (path, path.parent):
        if why := denied(folder):
            raise DataError(f"{spec}: {folder} cannot be read: {why}; see to its permissions")
        if (folder / INFO).exists() and not is_prepared(str(folder)):
            raise DataError(f"{spec}: {hint([STATE])}")
    if (path / INFO).exists():
        return path, None
    if (path.parent / INFO).exists():
        return path.parent, path.name
    name, _, split = where.rpartition("/")
    if not name and not where.startswith("/"):
        raise DataError(f"{spec}: {where!r} names no split; want {FORMS}")
    if not re.fullmatch(r"\w+(/\w+)*(:[\d.*]+)?", name) or path.parent.is_dir():
        raise DataError(
            f"{spec}: {path.parent} is not a prepared set, since it holds no {INFO}; want {FORMS}"
        )
    try:  # What `builder_from_files` does first; it would then read the folder, which is not checked yet.
        with record_error_context():
            found = _find_builder_dir(name)
    except (ValueError, ImportError):  # ImportError: TFDS imports code that needs TensorFlow.
        found = None
    if found is None:
        raise DataError(
            f"{spec}: {name} is neither a prepared directory nor a set under {_data_dir()}; prepare it first"
        )
    return epath.Path(found), split


def _data_dir() -> str:
    from tensorflow_datasets.core.utils import file_utils

    return ", ".join(str(d) for d in file_utils.list_data_dirs())


def _image_feature(spec: str, features: Any) -> str:
    images = [key for key, feature in features.items() if isinstance(feature, tfds().features.Image)]
    if "image" in images:
        return "image"
    if len(images) != 1:
        raise DataError(
            f"{spec}: has {len(images)} image features among {', '.join(features)}; want one, or 'image'"
        )
    return images[0]


def _are_numbers(names: list[str]) -> bool:
    """Whether TFDS made up these names for a set without class names: "0", "1", ..."""
    return names == [str(i) for i in range(len(names))]


def _texts(value: Any) -> list[str]:
    """Text of TFDS (bytes, a sequence of them, or of {"text": bytes}) as a list of strings."""
    if isinstance(value, dict):
        value = value.get("text", [])
    values = [value] if isinstance(value, bytes | str) else list(value)
    return [decode_utf8(v, f"text {i}") if isinstance(v, bytes) else str(v) for i, v in enumerate(values)]
