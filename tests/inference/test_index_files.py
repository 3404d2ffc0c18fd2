"""An index that somebody else wrote is read or refused in one sentence, and takes no memory that it only announces."""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_jax.inference.index import Index
from lit_jax.inference.index_files import Shard, check_sums, paths_of, write_shard
from lit_jax.utils import checksums
from lit_jax.utils.errors import DataError

N, E, SIZE = 5, 3, 2
MANIFEST = {
    "model": "model",
    "fingerprint": "f",
    "dtype": "float32",
    "source": "folder:pairs",
    "source_fingerprint": "s",
    "pictures": N - 1,
    "shard_size": SIZE,
    "format": "npy",
    "width": E,
    "skipped": [3],
}
SIZES = (2, 1, 1)  # Vectors in each shard.
FORMS = {"npy": ("npy", "float32"), "parquet": ("parquet", "float32"), "binary": ("npy", "binary")}


def write(folder, kind="npy", **changes):
    """Writes a small index without a model; `changes` replace fields of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    format, precision = FORMS[kind]
    said = {"format": format} | ({} if precision == "float32" else {"precision": precision})
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | said | changes))
    for path in (path for number in range(3) for path in paths_of(folder, format, number, 3, precision)):
        path.unlink(missing_ok=True)  # An existing file would be kept.
    for number, size in enumerate(SIZES):
        vectors = np.full((size, E), number, np.float32)
        paths = paths_of(folder, format, number, 3, precision)
        write_shard(paths, Shard(vectors, [f"{number}{i}" for i in range(size)]))
    return folder


def test_ids_that_are_not_utf8_are_written_as_parquet_too(tmp_path):
    paths = paths_of(tmp_path, "parquet", 0, 1)
    write_shard(paths, Shard(np.zeros((2, E), np.float32), ["caf\udce9.jpg", "x\ud800"]))
    assert pq.read_table(paths[0])["id"].to_pylist() == [r"caf\xe9.jpg", r"x\ud800"]


def test_a_file_that_differs_from_its_sum_is_refused_each_time(tmp_path):
    (tmp_path / "a").write_text("a")
    unchecked = {"a": "0" * 64}
    for _ in range(2):
        with pytest.raises(DataError, match="a has another sha256"):
            check_sums((tmp_path / "a",), unchecked)
    checksums.write(tmp_path)
    unchecked = checksums.listed(tmp_path)
    check_sums((tmp_path / "a",), unchecked)
    assert not unchecked


def read(folder):
    """Reads an index, which gives what its manifest says or ends in a DataError of one line."""
    try:
        index = Index.open(folder)
        shards = [shard._replace(embeddings=np.asarray(shard.embeddings)) for shard in index]
        if index.screen is not None:
            assert len(index.screen.candidates(np.ones(index.width, np.float32), 1)) == index.pictures
    except DataError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        return None
    for shard in shards:
        assert (
            shard.embeddings.shape == (len(shard.ids), index.width) and shard.embeddings.dtype == np.float32
        )
        assert all(type(name) is str for name in shard.ids)
    assert sum(len(shard.ids) for shard in shards) == index.pictures
    assert 0 <= index.record(0) <= index.record(index.pictures - 1) < index.pictures + len(index.skipped)
    return shards


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_what_was_written_is_read(tmp_path, format):
    shards = read(write(tmp_path / "i", format))
    assert [shard.ids for shard in shards] == [["00", "01"], ["10"], ["20"]]
    assert [shard.embeddings.tolist() for shard in shards] == [
        [[n] * E] * size for n, size in enumerate(SIZES)
    ]


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pictures": 10**12, "shard_size": 1}, "cannot be read"),
        ({"pictures": 10**60}, "its 'pictures' is"),
        ({"pictures": True}, "its 'pictures' is"),
        ({"pictures": "4"}, "its 'pictures' is"),
        ({"pictures": -4}, "its 'pictures' is"),
        ({"pictures": 10**12, "shard_size": 10**12}, "cannot be read"),
        ({"width": 10**9}, "its 'width' is"),
        ({"width": E + 1}, "not 2 vectors of 4 float32"),
        ({"shard_size": 0}, "its 'shard_size' is"),
        ({"format": ["npy"]}, "its 'format' is"),
        ({"format": "pickle"}, "its 'format' is"),
        ({"skipped": [3, 3]}, "its 'skipped' is"),
        ({"skipped": [5]}, "its 'skipped' is"),
        ({"skipped": [-1]}, "its 'skipped' is"),
        ({"skipped": ["3"]}, "its 'skipped' is"),
        ({"skipped": {"3": 3}}, "its 'skipped' is"),
        ({"source": None}, "its 'source' is"),
        ({"model": ["m"]}, "its 'model' is"),
        ({"fingerprint": 1}, "its 'fingerprint' is"),
    ],
)
def test_an_invalid_manifest_is_refused_at_once(tmp_path, changes, says):
    with pytest.raises(DataError, match=says):
        list(Index.open(write(tmp_path / "i", **changes)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (DEEP, "nested more than 64 levels deep"),
        ('{"pictures": ' + "9" * 5000 + "}", "a number of 5000 characters"),
        ('{"pictures": 4, "pictures": 5}', "twice in one object"),
        (b"\xff\xfe", "cannot be read"),
        ("", "cannot be read"),
        ("[]", "not a manifest"),
    ],
)
def test_a_manifest_that_is_not_plain_json_is_refused(tmp_path, content, says):
    path = write(tmp_path / "i") / "manifest.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=says):
        Index.open(path.parent)


@pytest.mark.parametrize("ids", [[1, 2], ["a"], ["a", None], {"a": 1, "b": 2}, ["a", ["b"]], "ab", None])
def test_invalid_ids_are_refused(tmp_path, ids):
    folder = write(tmp_path / "i")
    (folder / "ids-00000-of-00003.json").write_text(json.dumps(ids))
    with pytest.raises(DataError, match=r"ids-00000.* not a list of the ids of 2 pictures; delete the index"):
        list(Index.open(folder))


def rows(*values, dtype=np.float32):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    "array",
    [
        rows([{}, 1, 2], [3, 4, 5], dtype=object),
        rows([1, 2, 3], [4, 5, 6], dtype=np.float64),
        rows([1, 2, 3]),
        rows([1, 2, 3], [4, 5, 6], [7, 8, 9]),
        np.asfortranarray(rows([1, 2, 3], [4, 5, 6])),
        np.zeros((2, 3, 1), np.float32),
        np.zeros((2, 3), [("a", np.float32)]),
    ],
)
def test_an_array_of_another_kind_or_shape_is_refused(tmp_path, array):
    folder = write(tmp_path / "i")
    np.save(folder / "embeddings-00000-of-00003.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"embeddings-00000.* not 2 vectors of 3 float32"):
        list(Index.open(folder))


def test_an_array_that_announces_more_than_it_has_takes_no_memory(tmp_path):
    folder = write(tmp_path / "i", pictures=10**12, shard_size=10**12, skipped=[])
    paths = paths_of(folder, "npy", 0, 1)
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, E)}
    tracemalloc.start()
    for version in ((1, 0), (2, 0)):
        with paths[1].open("wb") as file:
            if version == (1, 0):
                np.lib.format.write_array_header_1_0(file, header)
            else:
                file.write(np.lib.format.magic(2, 0) + b"\xff\xff\xff\xff")
            file.truncate(10**12)  # Without any content.
        with pytest.raises(DataError, match=r"cannot be read"):
            list(Index.open(folder))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def table(ids, vectors):
    return pa.table({"id": ids, "embedding": vectors})


def lists(values, size=E, kind=None):
    return pa.array(values, kind or pa.list_(pa.float32(), size))


@pytest.mark.parametrize(
    "found",
    [
        pa.table({"id": ["a", "b"]}),
        pa.table({"name": ["a", "b"], "embedding": lists([[1] * 3] * 2)}),
        table([1, 2], lists([[1] * 3] * 2)),
        table(["a", None], lists([[1] * 3] * 2)),
        table([b"a", b"b"], lists([[1] * 3] * 2)),
        table(["a"], lists([[1] * 3])),
        table(["a", "b"], lists([[1] * 2] * 2, 2)),
        table(["a", "b"], lists([[1] * 3] * 2, kind=pa.list_(pa.float32()))),
        table(["a", "b"], lists([[1] * 3] * 2, kind=pa.list_(pa.float64(), 3))),
        table(["a", "b"], lists([[1] * 3, None])),
        table(["a", "b"], lists([[1] * 3, [1, None, 3]])),
        table(["a", "b"], pa.array(["x", "y"])),
    ],
)
def test_a_table_with_other_columns_is_refused(tmp_path, found):
    folder = write(tmp_path / "i", "parquet")
    pq.write_table(found, folder / "pictures-00000-of-00003.parquet")
    with pytest.raises(DataError, match=r"pictures-00000.* cannot be read: .*; delete the index"):
        list(Index.open(folder))


def test_a_table_that_becomes_far_larger_than_its_file_is_refused(tmp_path):
    n = 30_000
    folder = write(tmp_path / "i", "parquet", pictures=n, shard_size=n, skipped=[], width=E)
    (path,) = paths_of(folder, "parquet", 0, 1)
    same = pa.array(["x" * 10_000] * n)
    pq.write_table(table(same, lists([[1] * E] * n)), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="have more than"):
        list(Index.open(folder))
    write(tmp_path / "i", "parquet", pictures=n, shard_size=n, skipped=[], width=10_000)
    with pytest.raises(DataError, match="too small for 30000 vectors of 10000 numbers"):
        list(Index.open(folder))


@pytest.mark.parametrize(
    "name", ["manifest.json", "ids-00001-of-00003.json", "embeddings-00001-of-00003.npy"]
)
@pytest.mark.parametrize("instead", ["a link that leads out", "a pipe", "a device", "a folder", "a loop"])
def test_a_file_that_is_not_a_regular_file_of_the_folder_is_not_opened(tmp_path, name, instead):
    folder = write(tmp_path / "i")
    path = folder / name
    shutil.move(path, tmp_path / "outside")
    make = {
        "a link that leads out": lambda: path.symlink_to("../outside"),
        "a pipe": lambda: os.mkfifo(path),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "a folder": path.mkdir,
        "a loop": lambda: path.symlink_to(path.name),
    }
    make[instead]()
    assert read(folder) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-2, 9) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
numbers = st.integers(-1, 9) | st.sampled_from([2**31, 2**40, 10**12, 2**63, 2**64, 10**40]) | values
changes = st.dictionaries(
    st.sampled_from(["pictures", "width", "shard_size"]), numbers, max_size=3
) | st.dictionaries(
    st.sampled_from([*MANIFEST, "precision", "more"]), values | st.lists(st.integers(-1, 9)), max_size=3
)


FILES = {
    kind: [
        "manifest.json",
        *(path.name for i in range(3) for path in paths_of(Path(), form[0], i, 3, form[1])),
    ]
    for kind, form in FORMS.items()
}


@st.composite
def indexes(draw):
    """A format, changes of its manifest, and for some of its files the whole content or a few changed bytes."""
    kind = draw(st.sampled_from([*FORMS]))
    content = (
        st.binary(max_size=60)
        | values.map(lambda tree: json.dumps(tree).encode())
        | st.just(b"[" * 2000 + b"]" * 2000)
    )
    bytes_ = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)
    damage = st.dictionaries(st.sampled_from(FILES[kind]), content | bytes_ | bytes_, max_size=2)
    return kind, draw(changes | st.just({})), draw(damage), draw(st.none() | st.integers(0, 200))


def read_any(folder, drawn):
    """Writes the index that was drawn into `folder`, and reads it."""
    kind, changed, damage, cut = drawn
    write(folder, kind, **changed)
    for name, how in damage.items():
        content = bytearray((folder / name).read_bytes())
        if isinstance(how, bytes):
            content = how
        else:
            for place, value in how:
                content[place % len(content)] = value
        (folder / name).write_bytes(content[:cut])
    read(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=indexes())
def test_any_index_is_read_or_refused_in_one_sentence(tmp_path, drawn):
    read_any(tmp_path, drawn)
