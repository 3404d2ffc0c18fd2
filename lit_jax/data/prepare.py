"""Any source -> ArrayRecord shards with the metadata by which TensorFlow Datasets knows them."""

import contextlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.data.sources import Record, Source
from lit_jax.data.tfds import INFO
from lit_jax.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_RECORDS_PER_SHARD = 10_000
_OURS = re.compile(
    r"\..*|.*\.array_record-.*|features\.json|label\.labels\.txt|LICENSE"
)  # All but the last file.


def prepare(
    source: Source,
    out_dir: str | Path,
    *,
    name: str,
    split: str,
    shards: int | None = None,
    description: str | None = None,
    license: str | None = None,
    on_bad_record: str = "error",
) -> Path:
    """Writes `source` as split `split` of the set `name` into `out_dir`, and returns that directory.

    `tfds.builder_from_directory(out_dir)` and `open_source(f"tfds:{out_dir}/{split}")` read it: features `image`
    (bytes as they are, not decoded), `captions`, `id` and, where the first record has one, `label`. Records keep
    their order. An `out_dir` that holds other splits of the same set gains this one. `description` and `license`
    default to the source's. A shard holds 10,000 records unless `shards` says how many there are.

    Shards are written under a temporary name; the file that makes the split exist comes last, in one step. Raises
    `ConfigError` for a name that TFDS cannot use, and `DataError` when the split is there already, when
    `out_dir` is another set or no set, and, unless `on_bad_record` is "skip", when a record is broken.
    """
    import tensorflow_datasets as tfds

    for what, word in (("name", name), ("split", split)):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", word):
            raise ConfigError(f"{what} {word!r} is not one that TFDS takes; want small letters, digits and _")
    if split == "all":  # TFDS means all splits together by it, and cannot slice it.
        raise ConfigError(
            "split 'all' is TFDS's word for all splits together; choose another, 'train' for instance"
        )
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f"on_bad_record is {on_bad_record!r}; want 'error' or 'skip'")
    if not len(source):
        raise DataError(f"{source.spec} has no records; there is nothing to prepare")
    shards = shards or -(-len(source) // _RECORDS_PER_SHARD)
    if not 1 <= shards <= len(source):
        raise ConfigError(f"{shards} shards for {len(source)} records; want 1 to {len(source)}")
    out = Path(out_dir)
    before = _before(out, name, split)
    features = _features(source, before)

    work = out / f".unfinished-{split}"
    shutil.rmtree(work, ignore_errors=True)  # Of a run that was killed.
    work.mkdir(parents=True)
    try:
        template = tfds.core.ShardedFileTemplate(
            dataset_name=name, split=split, filetype_suffix="array_record", data_dir=work, template=_TEMPLATE
        )
        lengths, size = _write_shards(source, features, template, shards, skip=on_bad_record == "skip")
        done = tfds.core.SplitInfo(
            name=split,
            shard_lengths=lengths,
            num_bytes=size,
            filename_template=template.replace(data_dir=out),
        )
        splits = ([] if before is None else list(before.splits.values())) + [done]
        texts = {
            "description": description
            or getattr(source, "description", None)
            or (before and before.description)
            or "",
            "license": license
            or getattr(source, "license", None)
            or (before and before.as_proto.redistribution_info.license)
            or None,
        }
        _write_info(work, name, features, splits, texts)
        for path in sorted(work.iterdir(), key=lambda p: p.name == INFO):  # dataset_info.json last.
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _before(out: Path, name: str, split: str) -> Any:
    """The info of the set that `out` already holds, or None where it is new."""
    import tensorflow_datasets as tfds

    if not (out / INFO).exists():
        if out.exists() and not (out.is_dir() and all(_OURS.fullmatch(p.name) for p in out.iterdir())):
            raise DataError(f"{out} exists and is not a prepared set; give a new or an empty directory")
        return None
    info = tfds.builder_from_directory(out).info
    if info.name != name:
        raise DataError(f"{out} holds the set {info.name!r}, not {name!r}; give another directory")
    if split in info.splits:
        raise DataError(f"{out} already has a split {split!r}; delete the directory or give another")
    return info


def _features(source: Source, before: Any) -> Any:
    import tensorflow_datasets as tfds

    features: dict[str, Any] = {
        "image": tfds.features.Image(),
        "captions": tfds.features.Sequence(tfds.features.Text()),
        "id": tfds.features.Text(),
    }
    if source.class_names:
        features["label"] = tfds.features.ClassLabel(names=source.class_names)
    elif _first_label(source) is not None:
        features["label"] = tfds.features.Scalar(np.int64)
    made = tfds.features.FeaturesDict(features)
    if before is not None:
        names = [
            getattr(f["label"], "names", None) if "label" in f else None for f in (before.features, made)
        ]
        if before.features.to_json() != made.to_json() or names[0] != names[1]:
            raise DataError(
                f"{source.spec} has other labels than the splits already there; give another directory"
            )
    return made


def _first_label(source: Source) -> int | None:
    for index in range(len(source)):
        with contextlib.suppress(DataError):
            return source[index].get("label")
    return None


def _write_shards(
    source: Source, features: Any, template: Any, shards: int, skip: bool
) -> tuple[list[int], int]:
    """Writes every record; returns the number of records of each shard and the bytes of all."""
    from array_record.python.array_record_module import ArrayRecordWriter

    lengths, size = [0] * shards, 0
    for shard in range(shards):
        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
        writer = ArrayRecordWriter(
            os.fspath(path), "group_size:1"
        )  # 1: read by number without reading its neighbours.
        for index in range(shard * len(source) // shards, (shard + 1) * len(source) // shards):
            try:
                row = _row(source[index], "label" in features)
            except DataError as e:
                if not skip:
                    raise DataError(f"{source.spec}: record {index}: {e}") from e
                _log.warning("%s: record %d left out: %s", source.spec, index, e)
                continue
            example = features.serialize_example(features.encode_example(row))
            writer.write(example)
            lengths[shard] += 1
            size += len(example)
        writer.close()
    if not any(lengths):
        raise DataError(f"{source.spec}: every one of its {len(source)} records is broken")
    return lengths, size


def _row(record: Record, labelled: bool) -> dict[str, Any]:
    for caption in record["captions"]:
        try:
            caption.encode("utf-8")
        except UnicodeEncodeError as e:
            raise DataError(f"caption is invalid UTF-8 at character {e.start} (a lone surrogate)") from e
    row: dict[str, Any] = {"image": record["image"], "captions": record["captions"], "id": record["id"]}
    if labelled:
        row["label"] = record.get("label", -1)  # -1: TFDS's word for "unknown".
    return row


def _write_info(work: Path, name: str, features: Any, splits: list[Any], texts: dict[str, Any]) -> None:
    from tensorflow_datasets.core import dataset_info, file_adapters, utils
    from tensorflow_datasets.core import splits as splits_lib

    identity = dataset_info.DatasetIdentity(
        name=name, version=utils.Version("1.0.0"), data_dir=os.fspath(work), module_name=""
    )
    info = dataset_info.DatasetInfo(builder=identity, features=features, **texts)
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(splits_lib.SplitDict(splits))
    info.write_to_directory(work)
