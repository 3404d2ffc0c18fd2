"""Every source but tfds can also be read from a URL."""

import sys

import fsspec
import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import pairs_of, write_forms


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The forms of 200 pairs, copied to fsspec's file system in memory."""
    root = tmp_path_factory.mktemp("forms")
    pairs = pairs_of(200)
    specs = write_forms(root, pairs)
    memory = fsspec.filesystem("memory")
    memory.put(f"{root}/", "/bucket/", recursive=True)
    yield specs, {form: spec.replace(str(root), "memory://bucket") for form, spec in specs.items()}
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("form", ["folder", "wds", "parquet"])
def test_a_bucket_holds_the_same_source(bucket, form, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here, there = (open_source(specs[form]) for specs in bucket)
    assert len(here) == len(there) and [there[i] for i in (0, 99, 199)] == [here[i] for i in (0, 99, 199)]
    assert there.fingerprint() == here.fingerprint()
    assert len(list(tmp_path.rglob("*.arrow"))) == (form == "wds")  # Its index is on this machine.


def test_the_files_behind_a_url_decide_its_kind(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for form, name in (("folder", "folder"), ("wds", "wds"), ("parquet", "hub")):
        assert open_source(f"memory://bucket/{name}").spec.startswith(f"{form}:memory://")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("wds:memory://nowhere/*.tar", "no file matches"),
        ("folder:memory://nowhere", "there is no such directory"),
        ("wds:nope://bucket/*.tar", "Protocol not known: nope"),
        ("memory://nowhere", "no source 'memory://nowhere'"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_in_a_sentence(spec, words):
    with pytest.raises(DataError, match=words) as error:
        open_source(spec)
    assert "\n" not in str(error.value)


def test_a_bucket_whose_package_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(
        sys.modules["fsspec.registry"]._registry, "gs", raising=False
    )  # fsspec registers it when it is first used.
    with pytest.raises(DataError, match=r"reading gs:// needs a package .*pip install 'lit_jax\[gcs\]'"):
        open_source("wds:gs://bucket/*.tar")
