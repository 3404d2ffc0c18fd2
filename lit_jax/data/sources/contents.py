"""All captions of a source, and all of its labels."""

import hashlib
import logging

import numpy as np
from jaxtyping import Int

from lit_jax.data.sources.base import Source
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)


def captions_of(source: Source, *, warn_of_copies: bool = False) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Every caption of `source`, in order, and the number of the record that each belongs to.

    With `warn_of_copies`, a warning gives the number of records whose picture an earlier record has: in retrieval, the
    captions of one of them count as wrong for the other.
    """
    of_record, first, copies = [], dict[bytes, str](), list[str]()
    for record in map(source.__getitem__, range(len(source))):
        of_record.append(record["captions"])
        if warn_of_copies:
            earlier = first.setdefault(
                hashlib.blake2b(record["image"], digest_size=16).digest(), record["id"]
            )
            copies += [f"{record['id']!r} has that of {earlier!r}"] if earlier != record["id"] else []
    if copies:
        _log.warning(
            "%s: %d of %d records have the picture of an earlier one (first, %s), whose captions count as wrong for "
            "them; make one record of them",
            source.spec,
            len(copies),
            len(of_record),
            copies[0],
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
