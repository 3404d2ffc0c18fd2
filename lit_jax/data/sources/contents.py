"""All captions of a source, and all of its labels."""

import hashlib
import logging

import numpy as np
from jaxtyping import Int

from lit_jax.data.sources.base import Source
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)


def captions_of(source: Source, *, compare: bool = False) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Every caption of `source`, in order, and the number of the record that each belongs to.

    With `compare`, a warning counts the records whose picture is the same file as that of an earlier record: in
    retrieval, a caption of one is wrong for the other.
    """
    of_record: list[list[str]] = []
    first: dict[bytes, int] = {}  # The hash of a picture -> its first record.
    copies: list[tuple[int, int]] = []  # A record, and the earlier one with the same picture.
    for i in range(len(source)):
        record = source[i]
        of_record.append(record["captions"])
        if compare:
            earlier = first.setdefault(hashlib.blake2b(record["image"], digest_size=16).digest(), i)
            if earlier != i:
                copies.append((i, earlier))
    if copies:
        _log.warning(
            "%s: %d of its %d records have the same picture as an earlier one (record %d that of record %d): captions "
            "of one count as wrong for the other; make them one record, by a common id or file name",
            source.spec,
            len(copies),
            len(of_record),
            *copies[0],
        )
    owner = np.repeat(np.arange(len(of_record)), [len(captions) for captions in of_record])
    return [caption for captions in of_record for caption in captions], owner


def labels_of(source: Source) -> Int[np.ndarray, " N"]:
    """The class of every record of `source`. Raises DataError if a record has none."""
    labels = [source[i].get("label") for i in range(len(source))]
    if None in labels:
        i = labels.index(None)
        raise DataError(
            f"record {i} of {source.spec} has no label ({labels.count(None)} of {len(labels)} have none); "
            "classification needs one for each"
        )
    return np.array(labels, np.int64)
