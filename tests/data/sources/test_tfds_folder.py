"""A prepared folder is judged before TFDS reads it: no class of others is imported, and damage is told."""

import json
import os
import sys

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import prepare
from lit_jax.utils.errors import DataError


@pytest.fixture
def prepared(write_folder, tmp_path):
    """The folder of a small prepared set."""
    prepare(open_source(f"folder:{write_folder()}"), tmp_path / "set", name="pairs", split="train")
    return tmp_path / "set"


def refused(prepared):
    with pytest.raises(DataError) as error:
        source = open_source(f"tfds:{prepared}/train")
        [source[i] for i in range(len(source))]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_class_that_is_not_of_tfds_is_not_imported(prepared, key, monkeypatch, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = prepared / "features.json"
    stored = json.loads(path.read_text())
    stored.pop("pythonClassName", None)
    path.write_text(json.dumps({key: "evil.FeaturesDict"} | stored))
    assert "names the class 'evil.FeaturesDict', which is not one of TFDS's own features" in refused(prepared)
    assert "evil" not in sys.modules


def test_a_class_of_others_within_a_feature_is_not_imported(prepared):
    path = prepared / "features.json"
    text = path.read_text()
    assert "tensorflow_datasets.core.features.image_feature.Image" in text
    path.write_text(text.replace("tensorflow_datasets.core.features.image_feature.Image", "evil.Image"))
    assert "names the class 'evil.Image'" in refused(prepared)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_description_that_is_damaged_ends_in_a_sentence(prepared, name, content):
    (prepared / name).write_bytes(content)
    assert refused(prepared).startswith(f"tfds:{prepared}/train: ")


@pytest.mark.parametrize("change", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: bytes(len(c))])
def test_a_shard_that_is_damaged_ends_in_a_sentence(prepared, change):
    (shard,) = prepared.glob("*.array_record*")
    shard.write_bytes(change(shard.read_bytes()))
    refused(prepared)


def test_a_shard_that_is_no_regular_file_is_refused_without_waiting(prepared):
    (shard,) = prepared.glob("*.array_record*")
    shard.unlink()
    os.mkfifo(shard)
    assert "is not a regular file" in refused(prepared)
