"""What is no source says what it is, and how one is made of it."""

import pytest

from lit_jax.data.sources.base import remarks_of
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png

WRITE = r"write its records as tar shards or parquet \(docs/data\.md\)$"
FILES = {
    "00000.tar.gz": r"a compressed tar: unpack it to \.tar",
    "pictures.zip": "an archive: unpack it",
    "train-00000-of-00002.tfrecord": f"TFRecords without the dataset_info.json .*: {WRITE}",
    "data.mdb": f"a database of LMDB: {WRITE}",
    "shard.00000.mds": f"MosaicML.*: {WRITE}",
    "train.beton": f"FFCV: {WRITE}",
    "train.hdf5": f"HDF5: {WRITE}",
    "images.npy": f"NumPy: {WRITE}",
    "a.HEIC": "a picture of a format that is not read: write it as JPEG or PNG",
    "a.mp4": "a video: write its frames as JPEG",
}
TABLE = r"a table: if it has the captions, name it metadata\.csv .* and give its directory$"


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(**files):
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return put


@pytest.mark.parametrize("kind", ["", "folder:", "wds:"])
@pytest.mark.parametrize("name", FILES)
def test_a_directory_of_another_format_says_which_and_what_to_do(kind, name, put):
    put(**{name: b"x"})
    with pytest.raises(DataError, match=FILES[name]) as error:
        open_source(f"{kind}set")
    assert name in str(error.value)


@pytest.mark.parametrize("kind", ["", "folder:"])
@pytest.mark.parametrize("name", [*FILES, "train.csv", "metadata.xlsx"])
def test_the_file_itself_says_the_same(kind, name, put):
    put(**{name: b"x"})
    with pytest.raises(DataError, match=FILES.get(name, TABLE)):
        open_source(f"{kind}set/{name}")


@pytest.mark.parametrize("state", ["state.json", "LICENSE"])
@pytest.mark.parametrize("spec", ["tfds:set", "tfds:set/train", "folder:set"])
def test_a_set_of_the_package_datasets_is_not_taken_for_one_of_tfds(spec, state, put):
    put(**{"dataset_info.json": b"{}", state: b"{}", "data-00000-of-00001.arrow": b"x"})
    with pytest.raises(
        DataError, match=r"what save_to_disk of the package datasets wrote: give it as arrow:DIR$"
    ):
        open_source(spec)


@pytest.mark.parametrize(
    ("kind", "name", "way"),
    [("wds", "a.parquet", "parquet:DIR"), ("parquet", "0.tar", "wds:DIR"), ("wds", "0.arrow", "arrow:DIR")],
)
def test_files_of_the_other_kind_say_how_they_are_given(kind, name, way, put):
    put(**{name: b"x"})
    with pytest.raises(DataError, match=rf"no file matches .*; {name} is a .*: give .* {way}"):
        open_source(f"{kind}:set")


def test_a_table_of_another_name_is_mentioned_where_it_may_hold_the_captions(put):
    put(**{"a.png": png(0), "train.jsonl": b"{}"})
    assert any("train.jsonl is a table: if it has the captions" in x for x in remarks_of(open_source("set")))
    put(**{"a.txt": b"a caption"})
    assert not any("is a table" in remark for remark in remarks_of(open_source("set")))


def test_a_table_beside_directories_of_pictures_is_mentioned_with_all_other_ways(put):
    put(**{"images/a.png": png(0), "train.csv": b"image,caption\n", "notes.npy": b"x"})
    with pytest.raises(DataError, match=r"want one of them, or folder:set .*; train\.csv is a table"):
        open_source("set")


def test_a_table_with_tabs_says_the_name_for_them(put):
    put(**{"metadata.csv": b"filepath\ttitle\na.png\tx\n"})
    with pytest.raises(DataError, match=r"a table with tabs between the columns is called captions\.tsv"):
        open_source("set")


@pytest.mark.parametrize(
    "spec",
    [
        "https://huggingface.co/datasets/owner/name",
        "https://huggingface.co/datasets/owner/name/tree/main",
        "hf.co/datasets/owner/name",
        "datasets/owner/name",
        "owner/name",
    ],
)
def test_a_set_of_the_hub_is_told_how_it_is_given(spec, put):
    with pytest.raises(DataError, match=r"a set of the Hub is given as parquet:hf://datasets/owner/name$"):
        open_source(spec)


def test_a_path_is_not_taken_for_a_set_of_the_hub(put):
    for spec in ("./owner/name", "/owner/name", "a/b/c", "name"):
        with pytest.raises(DataError, match=r"it is not a directory; want one, or .*N/SPLIT$"):
            open_source(spec)
