"""All captions and all labels of a source; an error names the record that cannot be read, and its source."""

import hashlib
import logging

import numpy as np
from jaxtyping import Int

from lit_jax.data.captions import usable_captions
from lit_jax.data.sources.base import Record, Source, check_text
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)


def read_record(source: Source, index: int) -> Record:
    """Record `index` of `source`. Raises a DataError that names the source, the record and the reason."""
    try:
        return source[index]
    except DataError as e:
        raise named(source, index, e) from e


def named(source: Source, index: int, reason: object) -> DataError:
    """The error of record `index`, with its source."""
    text = str(reason).removeprefix(f"{source.spec}: ")
    return DataError(f"{source.spec}: record {index}: {text}")


def captions_of(source: Source, *, warn_of_copies: bool = False) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Every caption of `source` that is not empty, in order, and the number of the record that each belongs to.

    With `warn_of_copies`, a warning gives the number of records that have the picture of an earlier one: in retrieval,
    the captions of one count as wrong for the other. Raises a DataError that names the first record that cannot be
    read, has no caption that can be used or has one that is not UTF-8.
    """
    of_record, first, copies = [], dict[bytes, int](), list[str]()
    for i in range(len(source)):
        record = read_record(source, i)
        try:
            for caption in record["captions"]:
                check_text(caption)
            of_record.append(usable_captions(record["captions"]) if record["captions"] else [])
        except DataError as e:
            raise named(source, i, e) from e
        if warn_of_copies:
            earlier = first.setdefault(hashlib.blake2b(record["image"], digest_size=16).digest(), i)
            if earlier != i:
                copies.append(f"record {i}, {record['id']!r}, has that of record {earlier}")
    counts = [len(captions) for captions in of_record]
    if 0 in counts:
        way = "name their column, or leave these records out"
        if not any(counts) and "label" in read_record(source, 0):
            way = "name their column; for the labels of this set, the task is zero_shot (--tasks zero_shot)"
        raise DataError(
            f"record {counts.index(0)} of {source.spec} has no caption ({counts.count(0)} of {len(counts)} have none); "
            f"retrieval needs one for each: {way}"
        )
    if copies:
        _log.warning(
            "%s: %d of %d records have the picture of an earlier one (first, %s), whose captions count as wrong for "
            "them; make one record of them",
            source.spec,
            len(copies),
            len(of_record),
            copies[0],
        )
    owner = np.repeat(np.arange(len(of_record)), counts)
    return [caption for captions in of_record for caption in captions], owner


def labels_of(source: Source) -> Int[np.ndarray, " N"]:
    """The class of every record of `source`. Raises DataError if a record has none or cannot be read."""
    labels = [read_record(source, i).get("label") for i in range(len(source))]
    if None in labels:
        i = labels.index(None)
        raise DataError(
            f"record {i} of {source.spec} has no label ({labels.count(None)} of {len(labels)} have none); "
            "classification needs one for each"
        )
    return np.array(labels, np.int64)
