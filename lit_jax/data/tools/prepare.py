"""Any source -> ArrayRecord shards, with the metadata that TensorFlow Datasets needs to read them."""

import contextlib
import json
import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.data.reader import check_choice
from lit_jax.data.sources.base import Source, check_source
from lit_jax.data.tools import drafts, set_info
from lit_jax.data.tools.decoded_pictures import check_decodable
from lit_jax.data.tools.shards import (
    Work,
    WrittenShard,
    first_of_each,
    stored,
    summary_of,
    write_hashes,
    write_shard,
)
from lit_jax.data.workers import end_with_parent
from lit_jax.utils import checksums, npy
from lit_jax.utils.arguments import whole_number
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.local_folder import output_folder
from lit_jax.utils.parts import Part, alone
from lit_jax.utils.typing import ImageProcessor, Progress

_log = logging.getLogger(__name__)
_RECORDS_PER_SHARD = 10_000
_FEWER_PER_SHARD = 1_000  # For a set that would otherwise have fewer than _SHARDS shards.
_SHARDS = 16
_LOGGED = 10  # The log names this many of the records left out; the ledger names all.


@dataclass(frozen=True)
class PrepareOptions:
    """How `prepare` writes a split."""

    # Number of files; None: 10,000 records each, or fewer if that makes fewer than 16 files.
    shards: int | None = None
    description: str | None = None  # The description of the set; None: that of the source.
    license: str | None = None  # The licence of the set; None: that of the source.
    on_bad_record: str = "error"  # Or "skip": leave broken records out.
    # Pixels of the shorter side, at most; larger images are stored as smaller JPEGs.
    resize: int | None = None
    # Store pictures as it makes them before it crops, as uncompressed BMP files.
    decoded: ImageProcessor | None = None
    dedup: bool = False  # Leave out each image whose file equals that of an earlier record.
    verify: bool = False  # Decode each image to find broken ones; `resize` and `decoded` decode them as well.
    processes: int = 1  # Processes that write; more than one are spawned.
    # Write only this part of the shards; the process that finds none missing finishes the split.
    shard: Part | None = None


def prepare(
    source: Source,
    out_dir: str | Path,
    *,
    name: str,
    split: str,
    options: PrepareOptions = PrepareOptions(),
    progress: Progress | None = None,
) -> Path:
    """Writes `source` as the split `split` of the set `name` into `out_dir`, and returns that directory.

    `tfds.builder_from_directory(out_dir)` and `open_source(f"tfds:{out_dir}/{split}")` read it. Its features are
    `image`, `captions`, `id` and, if the first record has one, `label`. Records keep their order, and images that are
    neither resized nor decoded keep their bytes. `dropped-SPLIT.jsonl` lists the records that were left out, with
    reasons. If `out_dir` already holds other splits of the same set, this one is added. `progress` counts shards.

    Shards are written under a temporary name, and a run that was killed resumes with the shards that are not complete.
    The file that makes the split visible is moved into place last, in one step. Processes on several machines may
    each write a part (`options.shard`); the result is the same bytes. Raises `ConfigError` for options out of range,
    for an image processor whose pixels cannot be stored, for a name that TFDS cannot use, if the split already
    exists, and if `out_dir` holds another set or other files. Raises `DataError` if a record is broken, unless
    `on_bad_record` is "skip", and if a set in `out_dir` cannot be read.
    """
    check_source(source)
    _check_arguments(name, split, options)
    shards = _shard_count(source, options.shards)
    out = output_folder(out_dir, "output")
    draft = drafts.folder_of(out, split)
    if options.shard and drafts.is_there(out, name, split, shards, source):
        _finish_move(draft, out)
        return out
    existing = set_info.existing_info(out, name, split)
    work = Work(
        source,
        labelled=bool(source.class_names) or _first_label(source) is not None,
        skip=options.on_bad_record == "skip",
        resize=options.resize,
        decoded=options.decoded,
        verify=options.verify,
        same=None,
    )
    set_info.check_features(source, existing, work.features())

    drafts.begin(draft, work, shards, options.dedup, alone=options.shard is None)
    template = set_info.template(name, split, draft)
    paths = [Path(template.sharded_filepath(shard_index=i, num_shards=shards)) for i in range(shards)]
    _write_shards(work, paths, options, progress)
    if options.shard is None:
        _finish(work, paths, name, split, options)
    else:
        _finish_if_last(work, paths, name, split, options)
    return out


def _finish_if_last(
    work: Work, paths: Sequence[Path], name: str, split: str, options: PrepareOptions
) -> None:
    """Finishes the split if no shard is missing, unless another process does or has done it."""
    draft = paths[0].parent
    try:
        names = set(os.listdir(draft))  # Listing once asks the server of a shared disk again.
        if not all(summary_of(path).name in names for path in paths):
            return
        with alone(draft / drafts.PLAN) as locked:
            if not locked:
                text = "the file system of %s has no locks: start this again without --shard, which completes the set"
                _log.warning(text, draft)
            elif draft.is_dir():
                _finish(work, paths, name, split, options)
    except FileNotFoundError:  # Another process has finished it, and removed the draft.
        if draft.is_dir() or not drafts.is_there(draft.parent, name, split, len(paths), work.source):
            raise


def _finish_move(draft: Path, out: Path) -> None:
    """Does what is left if the process that published a split was killed just after that."""
    with contextlib.suppress(FileNotFoundError), alone(draft / drafts.PLAN) as locked:
        if locked:
            drafts.move_last(draft, out)


def _finish(work: Work, paths: Sequence[Path], name: str, split: str, options: PrepareOptions) -> None:
    """Makes a split of the shards, all of which are there."""
    source, draft = work.source, paths[0].parent
    out, final = draft.parent, draft / drafts.FINAL
    written = [stored(summary_of(path)) for path in paths]
    if not any(shard.records for shard in written):
        shutil.rmtree(draft)
        raise DataError(f"{source.spec}: every one of its {len(source)} records is broken")
    existing = set_info.existing_info(out, name, split)
    shutil.rmtree(final, ignore_errors=True)  # What a killed run may have left.
    final.mkdir()
    splits = [] if existing is None else list(existing.splits.values())
    template = set_info.template(name, split, out)
    splits.append(set_info.split_info(split, written, template))
    set_info.write_info(final, name, work.features(), splits, _texts(source, existing, options))
    checksums.write(final)
    _write_ledger(final / f"dropped-{split}.jsonl", source, written)
    drafts.publish(paths, draft, out)


def _check_arguments(name: str, split: str, options: PrepareOptions) -> None:
    for what, word in (("name", name), ("split", split)):
        if not isinstance(word, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", word):
            raise ConfigError(
                f"TFDS does not accept the {what} {word!r:.60}; want small letters, digits and _, a letter first"
            )
    if split == "all":  # TFDS could not slice it.
        raise ConfigError(
            "the split is 'all', which TFDS uses for all splits together; choose another, 'train' for instance"
        )
    check_choice("on_bad_record", options.on_bad_record, ("error", "skip"))
    if options.shard and options.dedup:
        raise ConfigError(
            "dedup compares all pictures, and shard writes a part of them: prepare without one of them"
        )
    if options.decoded is not None and options.resize:
        raise ConfigError(
            "decoded pictures have the size of their image processor, and resize gives another: prepare without one of "
            "them"
        )
    if options.decoded is not None:
        check_decodable(options.decoded)
    for what in ("processes", "resize", "shards"):
        if (number := getattr(options, what)) is not None:
            whole_number(number, what)


def _shard_count(source: Source, shards: int | None) -> int:
    n = len(source)
    if not n:
        raise DataError(f"{source.spec} has no records; there is nothing to prepare")
    shards = shards or max(-(-n // _RECORDS_PER_SHARD), min(_SHARDS, -(-n // _FEWER_PER_SHARD)))
    if not 1 <= shards <= n:
        raise ConfigError(f"{shards} shards for {n} records; want 1 to {n}")
    return shards


def _write_shards(
    work: Work, paths: Sequence[Path], options: PrepareOptions, progress: Progress | None
) -> None:
    """Writes the shards of this process to their paths; to leave out duplicates, it first hashes all images."""
    source, draft, shards = work.source, paths[0].parent, len(paths)
    n = len(source)
    bounds = [(shard * n // shards, (shard + 1) * n // shards) for shard in range(shards)]
    with _pool(min(options.processes, shards)) as run:
        if options.dedup:
            hashes = run(
                write_hashes, [(source, draft / f"{i}.npy", *ends) for i, ends in enumerate(bounds)], None
            )
            same = draft / "same.npy"
            np.save(same, first_of_each(np.concatenate([npy.load(path) for path in hashes])))
            work = replace(work, same=same)
        mine = range(shards) if options.shard is None else options.shard.numbers(shards)
        run(write_shard, [(work, paths[number], *bounds[number]) for number in mine], progress)


def _texts(source: Source, existing: Any, options: PrepareOptions) -> dict[str, Any]:
    """The description and the licence: as given, else those of the source, else those of the set so far."""
    return {
        "description": options.description
        or getattr(source, "description", None)
        or (existing and existing.description)
        or "",
        "license": options.license
        or getattr(source, "license", None)
        or (existing and existing.as_proto.redistribution_info.license)
        or None,
    }


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[Callable[..., list[Any]]]:
    """Yields `run(function, tasks, progress)`: the results in order, computed here or by that many processes."""

    def here(function: Callable, tasks: Sequence[tuple], progress: Progress | None) -> list:
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

        def there(function: Callable, tasks: Sequence[tuple], progress: Progress | None) -> list:
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


def _write_ledger(path: Path, source: Source, written: Sequence[WrittenShard]) -> None:
    """One line of JSON for each record that was left out, with the reason; no file if there is none."""
    dropped = [drop for shard in written for drop in shard.dropped]
    for drop in dropped[:_LOGGED]:
        _log.warning("%s: record %d left out: %s", source.spec, drop.record, drop.reason)
    if dropped:
        _log.warning(
            "%s: %d of %d records left out; %s names them", source.spec, len(dropped), len(source), path.name
        )
        path.write_text("".join(json.dumps(drop._asdict()) + "\n" for drop in dropped), "utf-8")


def _first_label(source: Source) -> int | None:
    for index in range(len(source)):
        with contextlib.suppress(DataError):
            return source[index].get("label")
    return None
