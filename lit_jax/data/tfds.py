"""`tfds:`: a set that TensorFlow Datasets has prepared as ArrayRecord or parquet, read without TensorFlow."""

import hashlib
import re
from typing import Any

import numpy as np
from etils import epath

from lit_jax.data.sources import FORMS, Record, decode_utf8
from lit_jax.errors import DataError

INFO = "dataset_info.json"
_CAPTIONS = ("captions", "caption", "texts", "text")
_IDS = ("id", "image/id", "image_id", "image/filename", "file_name", "filename")
_EDGE = 1 << 16  # Bytes at either end of a shard that its fingerprint reads.


class TfdsSource:
    """`NAME[:VERSION]/SPLIT` or `DIR/SPLIT`: the records of one split, or of a slice of one, by number.

    The picture is the feature `image`, or the only image; the captions are `captions`, `caption`, `texts` or
    `text`, a text or a sequence of texts or of `{"text": ...}`; `label` is used where it is a whole number. Bytes
    are handed out as stored. Holds no Python object per record. Raises `DataError` when the set is missing, has no
    such split or no image, or lies there in a format without random access.
    """

    def __init__(self, where: str):
        import tensorflow_datasets as tfds

        self.spec = f"tfds:{where}"
        builder, split = _locate(self.spec, where)
        self._dir = epath.Path(builder.data_dir)
        readable = {f.value for f in builder.info.available_file_formats()} & {"array_record", "parquet"}
        if not readable:
            found = ", ".join(sorted(f.value for f in builder.info.available_file_formats()))
            raise DataError(
                f"{self.spec}: stored as {found}, which has no random access; build it again with "
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
            if not shard.exists():
                raise DataError(f"{self.spec}: its shard {shard.name} is missing; prepare the set again")

        features = dict(builder.info.features.items())
        self._image = _image_feature(self.spec, features)
        self._captions = next((key for key in _CAPTIONS if key in features), None)
        self._id = next((key for key in _IDS if key in features), None)
        label = features.get("label")
        self._labelled = label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
        self.class_names = None
        if isinstance(label, tfds.features.ClassLabel) and not _are_numbers(label.names):
            self.class_names = tuple(label.names)
        self.description: str | None = builder.info.description or None
        self.license: str | None = builder.info.as_proto.redistribution_info.license or None
        decoders = {self._image: tfds.decode.SkipDecoding()}
        self._records = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        row = self._records[index]
        captions = _texts(row[self._captions]) if self._captions else []
        record = Record(image=row[self._image], captions=captions, id=str(index))
        if self._id is not None:
            (record["id"],) = _texts([row[self._id]])
        if self._labelled and row["label"] >= 0:  # -1: TFDS's word for "unknown".
            record["label"] = int(row["label"])
        return record

    def fingerprint(self) -> str:
        """The sha256 of the split, of the metadata that decide what is read, and of size and ends of every shard."""
        digest = hashlib.sha256(self._split.encode())
        digest.update((self._dir / "features.json").read_bytes())
        digest.update(repr(self.class_names).encode())
        for shard in self._shards:
            with shard.open("rb") as f:
                size = f.seek(0, 2)
                digest.update(f"{shard.name} {size} ".encode())
                for start in (0, max(0, size - _EDGE)):  # The end says where each record is.
                    f.seek(start)
                    digest.update(f.read(_EDGE))
        return digest.hexdigest()


def _locate(spec: str, where: str) -> tuple[Any, str | None]:
    """The builder and the split of `where`; the split is None where it names a directory alone."""
    import tensorflow_datasets as tfds

    path = epath.Path(where).expanduser()
    if (path / INFO).exists():
        return tfds.builder_from_directory(path), None
    if (path.parent / INFO).exists():
        return tfds.builder_from_directory(path.parent), path.name
    name, _, split = where.rpartition("/")
    if not re.fullmatch(r"\w+(/\w+)*(:[\d.*]+)?", name) or path.parent.is_dir():
        raise DataError(f"{spec}: {path.parent} is no prepared set, it holds no {INFO}; want {FORMS}")
    try:
        return tfds.core.read_only_builder.builder_from_files(name), split
    except (ValueError, ImportError) as e:  # Import: of code that wants TensorFlow, to find a default config.
        raise DataError(
            f"{spec}: {name} is neither a prepared directory nor a set under {_data_dir()}"
        ) from e


def _data_dir() -> str:
    from tensorflow_datasets.core.utils import file_utils

    return ", ".join(str(d) for d in file_utils.list_data_dirs())


def _image_feature(spec: str, features: Any) -> str:
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if "image" in images:
        return "image"
    if len(images) != 1:
        raise DataError(
            f"{spec}: has {len(images)} image features among {', '.join(features)}; want one, or 'image'"
        )
    return images[0]


def _are_numbers(names: list[str]) -> bool:
    """True for the names that TFDS makes up where a set has none: "0", "1", ..."""
    return names == [str(i) for i in range(len(names))]


def _texts(value: Any) -> list[str]:
    """Text of TFDS (bytes, a sequence of them, or of {"text": bytes}) as a list of strings."""
    if isinstance(value, dict):
        value = value.get("text", [])
    values = [value] if isinstance(value, bytes | str) else list(value)
    return [decode_utf8(v, f"text {i}") if isinstance(v, bytes) else str(v) for i, v in enumerate(values)]
