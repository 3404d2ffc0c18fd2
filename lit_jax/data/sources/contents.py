"""All captions of a source, and all of its labels."""

import numpy as np
from jaxtyping import Int

from lit_jax.data.sources.base import Source
from lit_jax.utils.errors import DataError


def captions_of(source: Source) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Every caption of `source`, in order, and the number of the record that each belongs to."""
    of_record = [source[i]["captions"] for i in range(len(source))]
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
