"""The inputs of a run are checked before anything else is made."""

import json

import pytest

from lit_jax.config import read_config
from lit_jax.train.inputs import open_sources
from lit_jax.utils.errors import DataError
from tests import tiny


def opened(folder, **changes):
    data = {"train": tiny.write_pairs(folder, n=30)}
    (folder / "metadata.jsonl").unlink()
    tree = {"steps": 4, "batch_size": 8, "model": {"vision": "v", "text": "t"}, "data": data}
    return lambda: open_sources(read_config(tree | changes))[0]


def test_pictures_alone_cannot_be_trained_on_and_the_error_says_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match=r"pairs: none of 20 records has a caption; .* or write metadata.jsonl or"
    ):
        opened(tmp_path / "pairs")()


def test_a_few_captions_anywhere_are_enough_to_begin(tmp_path):
    look = opened(tmp_path / "pairs")
    rows = [{"file_name": f"{i:03}.png", "captions": ["a"] if i == 27 else []} for i in range(30)]
    (tmp_path / "pairs" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(look()) == 30
