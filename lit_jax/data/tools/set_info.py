"""What TensorFlow Datasets needs to know of a prepared set: its features, its splits and the names of its shards."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.tfds_folder import INFO, info_of
from lit_jax.data.sources.tfds_package import tfds
from lit_jax.data.tools.shards import WrittenShard
from lit_jax.utils.errors import ConfigError, DataError

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_OURS = re.compile(  # Every file that `prepare` writes, except dataset_info.json.
    r"\..*|.*\.array_record-.*|features\.json|label\.labels\.txt|LICENSE|dropped-.*\.jsonl"
)


def template(name: str, split: str, folder: Path) -> Any:
    """The template that names the shards of a split in `folder`."""
    return tfds().core.ShardedFileTemplate(
        dataset_name=name, split=split, filetype_suffix="array_record", data_dir=folder, template=_TEMPLATE
    )


def split_info(split: str, written: Sequence[WrittenShard], template: Any) -> Any:
    """The entry of a split whose shards are `written` and named by `template`."""
    return tfds().core.SplitInfo(
        name=split,
        shard_lengths=[shard.records for shard in written],
        num_bytes=sum(shard.size for shard in written),
        filename_template=template,
    )


def existing_info(out: Path, name: str, split: str) -> Any:
    """The info of the set that `out` already holds, or None for a new one.

    Raises ConfigError if something is in the way, and DataError if the set cannot be read.
    """
    if not (out / INFO).exists():
        if out.exists() and not (out.is_dir() and all(_OURS.fullmatch(p.name) for p in out.iterdir())):
            raise ConfigError(f"{out} exists and is not a prepared set; give a new or an empty directory")
        return None
    info = info_of(out)
    if info.name != name:
        raise ConfigError(f"{out} holds the set {info.name!r}, not {name!r}; give another directory")
    if split in info.splits:
        raise ConfigError(
            f"{out} already has a split {split!r}; delete the directory or give another directory or split"
        )
    return info


def check_features(source: Source, existing: Any, features: Any) -> None:
    """Raises `DataError` if the `features` of `source` are not those of the existing set."""
    if existing is None:
        return
    names = [
        getattr(f["label"], "names", None) if "label" in f else None for f in (existing.features, features)
    ]
    if existing.features.to_json() != features.to_json() or names[0] != names[1]:
        raise DataError(
            f"{source.spec} has other labels than the splits already there; give another directory"
        )


def write_info(work: Path, name: str, features: Any, splits: list[Any], texts: dict[str, Any]) -> None:
    """Writes features.json and dataset_info.json of the set `name` into the folder `work`."""
    from tensorflow_datasets.core import dataset_info, file_adapters, utils
    from tensorflow_datasets.core import splits as splits_lib

    identity = dataset_info.DatasetIdentity(
        name=name, version=utils.Version("1.0.0"), data_dir=os.fspath(work), module_name=""
    )
    info = dataset_info.DatasetInfo(builder=identity, features=features, **texts)
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(splits_lib.SplitDict(splits))
    info.write_to_directory(work)
