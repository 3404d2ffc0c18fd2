"""One shard of a prepared set: how a process writes a range of records."""

import contextlib
import hashlib
import io
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lit_jax.data.sources.base import Record, Source
from lit_jax.data.sources.tfds_package import tfds
from lit_jax.data.tools.decoded_pictures import decoded_file
from lit_jax.data.transforms.image_files import open_image
from lit_jax.utils import npy, strict_json
from lit_jax.utils.atomic import naming
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.parts import put_last
from lit_jax.utils.typing import ImageProcessor

DIGEST = 16  # Bytes of an image's hash.
_QUALITY = 95  # The quality of the JPEGs that `resize` writes.


class Dropped(NamedTuple):
    """A record that was left out."""

    record: int
    reason: str


class WrittenShard(NamedTuple):
    """What was written to a shard, and what was left out."""

    records: int
    size: int  # Bytes of all records together.
    dropped: list[Dropped]


@dataclass(frozen=True)
class Work:
    """Which records are written, and how."""

    source: Source
    labelled: bool  # The set has the feature `label`.
    skip: bool  # Leave broken records out; otherwise they raise `DataError`.
    resize: int | None  # Pixels of the shorter side, at most.
    decoded: ImageProcessor | None  # Store pixels as this one resizes them.
    verify: bool  # Decode every image.
    same: Path | None  # A .npy file, int64 [n]: the earlier record with the same image, or -1.

    def features(self) -> Any:
        """The features of the set: image, captions, id and, if labelled, label."""
        kinds = tfds().features
        features: dict[str, Any] = {
            "image": kinds.Image(),
            "captions": kinds.Sequence(kinds.Text()),
            "id": kinds.Text(),
        }
        if self.labelled:
            names = self.source.class_names
            features["label"] = kinds.ClassLabel(names=names) if names else kinds.Scalar(np.int64)
        return kinds.FeaturesDict(features)


def write_shard(work: Work, path: Path, start: int, stop: int) -> WrittenShard:
    """Writes the records `start` to `stop` to `path` and then its summary, each in one step, unless an earlier run did.

    Raises `DataError` for a broken record, unless they are skipped.
    """
    summary = summary_of(path)
    if summary.is_file():
        return stored(summary)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with naming(path):
            return _written(work, path, part, start, stop)
    finally:  # After an error it holds half of a shard, which no later run takes up.
        part.unlink(missing_ok=True)


def _written(work: Work, path: Path, part: Path, start: int, stop: int) -> WrittenShard:
    """What `write_shard` does for a shard that is not there; `part` is its name until it is complete."""
    from array_record.python.array_record_module import ArrayRecordWriter

    summary, features = summary_of(path), work.features()
    same = None if work.same is None else npy.load(work.same, mmap_mode="r")
    records, size, dropped = 0, 0, []
    # Groups of 1: a record is read without its neighbours. Compressing pixels saves 2 % and triples the reading time.
    form = "group_size:1" if work.decoded is None else "group_size:1,uncompressed"
    writer = ArrayRecordWriter(os.fspath(part), form)
    for index in range(start, stop):
        if same is not None and same[index] >= 0:
            dropped.append(Dropped(index, f"the same picture as record {same[index]}"))
            continue
        try:
            row = _row(work, work.source[index])
        except DataError as e:
            if not work.skip:
                writer.close()
                raise DataError(f"{work.source.spec}: record {index}: {e}") from e
            dropped.append(Dropped(index, str(e)))
            continue
        example = _in_order(features.serialize_example(features.encode_example(row)))
        writer.write(example)
        records += 1
        size += len(example)
    writer.close()
    os.replace(part, path)
    about = json.dumps({"records": records, "size": size, "dropped": dropped})
    put_last(summary, lambda draft: draft.write_text(about, "utf-8"))
    return WrittenShard(records, size, dropped)


def summary_of(path: Path) -> Path:
    """The file that says what is in the shard `path`; a shard that has one is complete."""
    return path.with_name(f"{path.name}.json")


def stored(summary: Path) -> WrittenShard:
    """What the summary of a shard says. Raises `DataError`."""
    try:
        found = strict_json.read_own(summary)
        return WrittenShard(found["records"], found["size"], [Dropped(*pair) for pair in found["dropped"]])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{summary} is damaged ({first_line(e)}): remove it to have its shard written again"
        ) from e


def write_hashes(source: Source, path: Path, start: int, stop: int) -> Path:
    """Writes the hashes of the images `start` to `stop`, uint8 [stop - start, 16], zeros for a broken record."""
    if not path.is_file():
        hashes = np.zeros((stop - start, DIGEST), np.uint8)
        for row, index in enumerate(range(start, stop)):
            with contextlib.suppress(DataError):
                hashes[row] = np.frombuffer(picture_hash(source[index]), np.uint8)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as f:
            np.save(f, hashes)
        os.replace(part, path)
    return path


def picture_hash(record: Record) -> bytes:
    """A hash of the image's file, uint8 [16] as bytes; equal files have equal hashes."""
    return hashlib.blake2b(record["image"], digest_size=DIGEST).digest()


def first_of_each(hashes: np.ndarray) -> np.ndarray:
    """uint8 [n, 16] -> int64 [n]: for each row the earliest row that equals it; -1 if none does, and for zeros."""
    keys = np.ascontiguousarray(hashes).view(f"V{DIGEST}").ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    earlier = first[inverse.ravel()].astype(np.int64)
    earlier[(earlier == np.arange(len(keys))) | ~hashes.any(axis=1)] = -1
    return earlier


def _in_order(example: bytes) -> bytes:
    """The same example with its features in a fixed order; protobuf's own order differs between processes."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def _row(work: Work, record: Record) -> dict[str, Any]:
    for caption in record["captions"]:
        try:
            caption.encode("utf-8")
        except UnicodeEncodeError as e:
            raise DataError(f"caption is invalid UTF-8 at character {e.start} (a lone surrogate)") from e
    image = record["image"]
    if work.verify or work.resize or work.decoded is not None:
        picture = open_image(image)
        if work.decoded is not None:
            image = decoded_file(work.decoded, picture) or image
        if work.resize and min(picture.size) > work.resize:
            image = _smaller(picture, work.resize)
    row: dict[str, Any] = {"image": image, "captions": record["captions"], "id": record["id"]}
    if work.labelled:
        row["label"] = record.get("label", -1)  # -1 means "unknown" in TFDS.
    return row


def _smaller(picture: Image.Image, side: int) -> bytes:
    """A JPEG whose shorter side has `side` pixels."""
    scale = side / min(picture.size)
    size: Sequence[int] = [max(side, round(length * scale)) for length in picture.size]
    file = io.BytesIO()
    small = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    small.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
