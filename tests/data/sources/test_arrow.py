"""`arrow:`: what the package datasets saves is read like parquet, and each mistake has its sentence."""

import json
import os

import pyarrow as pa
import pytest

from lit_jax.data.sources import arrow_batches
from lit_jax.data.sources.base import remarks_of
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png

LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}
ABOUT = {"huggingface": json.dumps({"info": {"features": {"label": LABEL}}})}


def table(first, rows):
    """Rows of a set, as `datasets` writes them."""
    numbers = range(first, first + rows)
    columns = {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
        "caption": [[f"a {i}", f"b {i}"] for i in numbers],
        "label": [i % 2 for i in numbers],
    }
    return pa.table(columns).replace_schema_metadata(ABOUT)


def write(path, content, new=pa.ipc.new_stream, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with new(path, content.schema, **options) as writer:
        writer.write_table(content, max_chunksize=2)


def saved(folder, sizes=(3, 2)):
    """What `save_to_disk` writes."""
    names = [f"data-{i:05}-of-{len(sizes):05}.arrow" for i in range(len(sizes))]
    for i, (name, rows) in enumerate(zip(names, sizes, strict=True)):
        write(folder / name, table(sum(sizes[:i]), rows))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"label": LABEL}}))
    return folder


def captions(source):
    return [source[i]["captions"][0] for i in range(len(source))]


@pytest.mark.parametrize(
    "spec", ["arrow:set", "set", "arrow:set/data-*.arrow", "arrow:set/data-0000{0,1}-of-00002.arrow"]
)
def test_a_saved_set_has_its_records_and_its_class_names(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "set")
    source = open_source(spec)
    assert captions(source) == [f"a {i}" for i in range(5)] and source.class_names == ("cat", "dog")
    assert source[3] == {"image": png(3), "captions": ["a 3", "b 3"], "id": "3.png", "label": 1}
    assert remarks_of(source) == ()


@pytest.mark.parametrize("state", [True, False])
def test_what_map_and_filter_leave_in_the_folder_is_no_part_of_the_set(state, tmp_path):
    folder = saved(tmp_path / "set")
    write(folder / "cache-0123.arrow", table(50, 2))
    write(folder / "cache-4567.arrow", pa.table({"indices": pa.array([1], pa.uint64())}))
    if not state:  # As in the cache of the package.
        (folder / "state.json").unlink()
    for spec in (f"arrow:{folder}", str(folder)):
        assert captions(open_source(spec)) == [f"a {i}" for i in range(5)]


def test_the_splits_of_a_set_are_opened_one_by_one(tmp_path):
    for split, rows in (("train", 2), ("test", 1)):
        saved(tmp_path / "set" / split, (rows,))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for spec in (f"arrow:{tmp_path}/set", f"{tmp_path}/set/"):
        with pytest.raises(
            DataError, match=r"holds the splits train, test; name one of them: arrow:.*/set/train$"
        ):
            open_source(spec)
    assert (
        len(open_source(f"arrow:{tmp_path}/set/train")) == 2 and len(open_source(f"{tmp_path}/set/test")) == 1
    )


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_streams_and_files_of_arrow_are_read_alike(new, codec, tmp_path):
    write(tmp_path / "a.ARROW", table(0, 5), new, options=pa.ipc.IpcWriteOptions(compression=codec))
    source = open_source(f"arrow:{tmp_path}")
    assert captions(source) == [f"a {i}" for i in range(5)]
    assert captions(open_source(str(tmp_path / "a.ARROW"))) == captions(source)


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_compressed_file_that_would_fill_the_memory_is_refused(new, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_batches, "_DECOMPRESSED", 1 << 10)
    write(tmp_path / "a.arrow", table(0, 5), new)
    assert len(open_source(f"arrow:{tmp_path}")) == 5
    write(tmp_path / "b.arrow", table(0, 5), new, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(
        DataError, match=r"b\.arrow cannot be read as arrow: it is compressed and takes more than"
    ):
        open_source(f"arrow:{tmp_path}")


def test_a_file_that_is_cut_off_joined_or_of_another_kind_is_named(tmp_path):
    write(tmp_path / "whole.arrow", table(0, 5))
    whole = (tmp_path / "whole.arrow").read_bytes()
    write(tmp_path / "footer.arrow", table(0, 5), pa.ipc.new_file)
    footer = (tmp_path / "footer.arrow").read_bytes()
    for content, said in (
        (whole[:-8], "does not end as an Arrow stream does, so it is cut off"),  # Between two batches.
        (whole[:-600], "fetch or write it again"),
        (whole + whole, f"{len(whole)} bytes follow its end"),
        (footer[:-3], "begins as an Arrow file and does not end as one, so it is cut off"),
        (b"PAR1" + whole, "it is a parquet file; name it with parquet:"),
        (b"", "it is empty; fetch it again"),
        (b"x" * 900, "it does not begin as an Arrow file does; want Arrow files"),
    ):
        path = tmp_path / "bad" / "0.arrow"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"0.arrow cannot be read as arrow: .*{said}"):
            open_source(f"arrow:{path}")
        path.unlink()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            '{"_data_files": [{"filename": "data-9.arrow"}]}',
            "names 'data-9.arrow', which is missing; fetch it again",
        ),
        ('{"_data_files": [{"filename": "../data-9.arrow"}]}', "names '../data-9.arrow', which is missing"),
        ('{"_data_files": []}', "names no files; save the set again"),
        ('{"_data_files": "x"}', "names no files; save the set again"),
        ('{"_data_files": [{"filename": []}]}', "names no files; save the set again"),
        ('{"_split": null}', "names no files; save the set again"),
        (
            '{"_indices_data_files": [{"filename": "i.arrow"}]}',
            r"a choice of its rows .*\.flatten_indices\(\)",
        ),
        ("{", "state.json cannot be read: "),
    ],
)
def test_a_state_that_does_not_fit_its_folder_is_named(state, said, tmp_path):
    folder = saved(tmp_path / "set")
    (folder / "state.json").write_text(state)
    with pytest.raises(DataError, match=said) as error:
        open_source(f"arrow:{folder}")
    assert "\n" not in str(error.value)


def test_arrow_files_in_a_bucket_say_how_they_are_read():
    with pytest.raises(
        DataError, match="Arrow files are read on this machine; copy them here, or give them as parquet"
    ):
        import fsspec

        with fsspec.open("memory://arrows/0.arrow", "wb") as file:
            file.write(b"x")
        open_source("arrow:memory://arrows/0.arrow")


def test_the_fingerprint_follows_the_set_and_not_its_place(tmp_path):
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other")
    first, second = (open_source(f"arrow:{folder}").fingerprint() for folder in (one, other))
    assert first == second
    state = (other / "state.json").read_text().replace('"_fingerprint": "0"', '"_fingerprint": "1"')
    (other / "state.json").write_text(state)
    assert open_source(f"arrow:{other}").fingerprint() != first
    saved(other, (2, 3))
    assert open_source(f"arrow:{other}").fingerprint() != first


def test_files_of_a_set_are_no_longer_held_open(tmp_path):
    folder = saved(tmp_path / "set", (1,) * 20)
    before = len(os.listdir("/dev/fd"))
    source = open_source(f"arrow:{folder}")
    assert len(os.listdir("/dev/fd")) <= before + 1 and captions(source)[19] == "a 19"


def test_the_package_itself_writes_what_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    rows = table(0, 5).to_pydict()
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "set", num_shards=2)
    datasets.load_from_disk(tmp_path / "set").filter(lambda row: row["label"] == 0)
    source = open_source(str(tmp_path / "set"))
    assert captions(source) == [f"a {i}" for i in range(5)] and source.class_names == ("cat", "dog")
    made.shuffle(seed=0).select([1, 0]).save_to_disk(tmp_path / "chosen")
    assert len(open_source(f"arrow:{tmp_path}/chosen")) == 2
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"name one of them: arrow:.*/splits/train"):
        open_source(str(tmp_path / "splits"))
