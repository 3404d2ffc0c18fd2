"""All captions of a source, and pictures that occur in several records."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from tests.data.conftest import png


def test_records_with_the_same_picture_are_counted_in_a_warning(tmp_path, caplog):
    pictures = [0, 1, 0, 2, 1, 0]  # Neither an id nor a path says that they are the same.
    table = pa.table({"image": [png(i) for i in pictures], "caption": list("abcdef")})
    pq.write_table(table, tmp_path / "0.parquet")
    source = open_source(f"parquet:{tmp_path}")
    with caplog.at_level(logging.WARNING):
        texts, owner = captions_of(source, compare=True)
    assert texts == list("abcdef") and np.array_equal(owner, range(6))
    copies = len(pictures) - len(np.unique(pictures))
    (line,) = caplog.messages
    assert (
        f"{copies} of its 6 records have the same picture as an earlier one (record 2 that of record 0)"
        in line
    )


def test_records_with_pictures_of_their_own_are_not_warned_of(tmp_path, caplog):
    pq.write_table(
        pa.table({"image": [png(i) for i in range(3)], "caption": list("abc")}), tmp_path / "0.parquet"
    )
    with caplog.at_level(logging.WARNING):
        captions_of(open_source(f"parquet:{tmp_path}"), compare=True)
    assert caplog.messages == []
