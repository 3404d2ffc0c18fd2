"""Any source -> ArrayRecord shards with the metadata by which TensorFlow Datasets knows them."""

import contextlib
import json
import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.tfds import INFO
from lit_jax.data.tools.shards import (
    Done,
    Work,
    end_with_parent,
    first_of_each,
    write_hashes,
    write_shard,
)
from lit_jax.utils.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_RECORDS_PER_SHARD = 10_000
_FEWER_PER_SHARD = 1_000  # Of a set that would otherwise have less than _SHARDS shards to share out.
_SHARDS = 16
_TOLD = 10  # Records left out that the log names; the ledger names all.
_OURS = re.compile(  # All but the last file.
    r"\..*|.*\.array_record-.*|features\.json|label\.labels\.txt|LICENSE|dropped-.*\.jsonl"
)


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
    resize: int | None = None,
    dedup: bool = False,
    verify: bool = False,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `source` as split `split` of the set `name` into `out_dir`, and returns that directory.

    `tfds.builder_from_directory(out_dir)` and `open_source(f"tfds:{out_dir}/{split}")` read it: features `image`,
    `captions`, `id` and, where the first record has one, `label`. Records keep their order, pictures their bytes, but
    with `resize` those whose shorter side has more pixels than that become JPEGs in which it has as many. `dedup`
    leaves out a picture whose file is that of an earlier record; `verify` decodes each picture, and so does `resize`.
    What was left out, and why, stands in `dropped-SPLIT.jsonl`. An `out_dir` that holds other splits of the same set
    gains this one. `description` and `license` default to the source's. A shard holds 10,000 records, or fewer where
    that makes fewer than 16 shards, unless `shards` says how many there are; `processes` (spawned) write them.

    Shards are written under a temporary name, and a run that was killed goes on with those that are not whole; the file
    that makes the split exist comes last, in one step. Raises `ConfigError` for a name that TFDS cannot use, and
    `DataError` when the split is there already, when `out_dir` is another set or no set, and, unless `on_bad_record`
    is "skip", when a record is broken.
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
    if processes < 1 or (resize is not None and resize < 1):
        raise ConfigError(f"processes {processes}, resize {resize}: want 1 or more")
    if not len(source):
        raise DataError(f"{source.spec} has no records; there is nothing to prepare")
    n = len(source)
    shards = shards or max(-(-n // _RECORDS_PER_SHARD), min(_SHARDS, -(-n // _FEWER_PER_SHARD)))
    if not 1 <= shards <= n:
        raise ConfigError(f"{shards} shards for {n} records; want 1 to {n}")
    out = Path(out_dir)
    before = _before(out, name, split)
    labelled = bool(source.class_names) or _first_label(source) is not None
    work = Work(source, labelled, on_bad_record == "skip", resize, verify, None)
    features = work.features()
    _check_features(source, before, features)

    draft = _draft(out / f".unfinished-{split}", work, shards, dedup)
    bounds = [(shard * n // shards, (shard + 1) * n // shards) for shard in range(shards)]
    with _pool(min(processes, shards)) as run:
        if dedup:
            hashes = run(
                write_hashes, [(source, draft / f"{i}.npy", *ends) for i, ends in enumerate(bounds)], None
            )
            same = draft / "same.npy"
            np.save(same, first_of_each(np.concatenate([np.load(path) for path in hashes])))
            work = Work(source, labelled, work.skip, resize, verify, same)
        template = tfds.core.ShardedFileTemplate(
            dataset_name=name, split=split, filetype_suffix="array_record", data_dir=draft, template=_TEMPLATE
        )
        paths = [Path(template.sharded_filepath(shard_index=i, num_shards=shards)) for i in range(shards)]
        done = run(
            write_shard, [(work, path, *ends) for path, ends in zip(paths, bounds, strict=True)], progress
        )
    if not any(one.records for one in done):
        shutil.rmtree(draft)
        raise DataError(f"{source.spec}: every one of its {n} records is broken")

    whole = tfds.core.SplitInfo(
        name=split,
        shard_lengths=[one.records for one in done],
        num_bytes=sum(one.size for one in done),
        filename_template=template.replace(data_dir=out),
    )
    splits = ([] if before is None else list(before.splits.values())) + [whole]
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
    final = draft / "final"  # Anew, where a run was killed in here.
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    _write_info(final, name, features, splits, texts)
    _write_ledger(final / f"dropped-{split}.jsonl", source, done)
    for path in paths:
        if path.exists():  # Else a run that was killed has moved it already.
            os.replace(path, out / path.name)
    for path in sorted(final.iterdir(), key=lambda p: p.name == INFO):  # dataset_info.json last.
        os.replace(path, out / path.name)
    shutil.rmtree(draft)
    return out


def _draft(draft: Path, work: Work, shards: int, dedup: bool) -> Path:
    """The directory in which the split is made; what an interrupted run of the same work left there stays."""
    key = {
        "fingerprint": work.source.fingerprint(),
        "shards": shards,
        "classes": work.source.class_names,
        "work": [work.labelled, work.resize, work.verify, dedup],
    }
    text = json.dumps(key)
    plan = draft / "plan.json"
    if draft.exists() and not (plan.is_file() and plan.read_text("utf-8") == text):
        shutil.rmtree(draft)
    if draft.exists():
        _log.info("going on with %s: %d shards are done", draft, len(list(draft.glob("*-of-*.json"))))
    draft.mkdir(parents=True, exist_ok=True)
    plan.write_text(text, "utf-8")
    return draft


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[Callable[..., list[Any]]]:
    """Yields `run(function, arguments, progress)`: the results in order, made here or in so many processes."""

    def here(function: Callable, tasks: Sequence[tuple], progress: Callable[[int, int], None] | None) -> list:
        results = []
        for task in tasks:
            results.append(function(*task))
            if progress:
                progress(len(results), len(tasks))
        return results

    if processes == 1:
        yield here
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:

        def there(
            function: Callable, tasks: Sequence[tuple], progress: Callable[[int, int], None] | None
        ) -> list:
            futures = [pool.submit(function, *task) for task in tasks]
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    if progress:
                        progress(done, len(tasks))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]

        yield there


def _write_ledger(path: Path, source: Source, done: Sequence[Done]) -> None:
    """One line for each record that was left out, with its reason; no file where there is none."""
    dropped = [one for shard in done for one in shard.dropped]
    for one in dropped[:_TOLD]:
        _log.warning("%s: record %d left out: %s", source.spec, one.record, one.reason)
    if dropped:
        _log.warning(
            "%s: %d of %d records left out; %s names them", source.spec, len(dropped), len(source), path.name
        )
        path.write_text("".join(json.dumps(one._asdict()) + "\n" for one in dropped), "utf-8")


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


def _check_features(source: Source, before: Any, features: Any) -> None:
    if before is None:
        return
    names = [
        getattr(f["label"], "names", None) if "label" in f else None for f in (before.features, features)
    ]
    if before.features.to_json() != features.to_json() or names[0] != names[1]:
        raise DataError(
            f"{source.spec} has other labels than the splits already there; give another directory"
        )


def _first_label(source: Source) -> int | None:
    for index in range(len(source)):
        with contextlib.suppress(DataError):
            return source[index].get("label")
    return None


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
