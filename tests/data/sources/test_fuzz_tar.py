"""Tar shards in any order and with any damage: all is read, or an error or a remark tells what is not."""

import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_jax.data.sources import webdataset
from lit_jax.data.sources.record_index import build
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError

BLOCK = 512
EXAMPLES = [60, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def no_stored_index(monkeypatch):
    """An index in memory, which is what takes most of the time otherwise."""
    monkeypatch.setattr(webdataset, "open_index", lambda files, folder, name, stamp, make: build(make))


names = st.sampled_from(["0", "1", "2", "a/0", "./a/1", "x" * 120, "é", "1#2"])
endings = st.sampled_from(["jpg", "JPG", "png", "jfif", "txt", "json", "cls", "npy", "seg.png"])
held = st.binary(min_size=1, max_size=700) | st.sampled_from(
    [b"7", b"-1", b"cat", b"\xef\xbb\xbfa", b'{"caption": "b"}', b'{"captions": ["c", "d"]}', b"[]", b"\xff"]
)
members = st.lists(st.tuples(names, endings, held), min_size=1, max_size=8)
forms = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def many(count, check, *strategies):
    """Runs `check` on `count` inputs."""
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    wanted = settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=health
    )
    wanted(given(*strategies)(check))()


def tar_of(parts, form):
    """The bytes of a tar file, and where the headers of its members are."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, ending, data in parts:
            info = tarfile.TarInfo(f"{name}.{ending}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        return file.getvalue(), [member.offset_data - BLOCK for member in tar]


def expected(parts):
    """The pictures of the samples, one for each name, by the rules of the documents."""
    order, open_ = [], {}
    for name, ending, data in parts:
        key, ending = name.removeprefix("./"), ending.lower()
        sample = open_.get(key)
        if sample is None or (ending in sample and ending not in ("npy", "seg.png")):
            sample = open_[key] = {}
            order.append(sample)
        sample.setdefault(ending, data)
    pictures = [[ending for ending in sample if ending in ("jpg", "png", "jfif")] for sample in order]
    best = [next((e for e in found if e != "jfif"), found[0]) for found in pictures if found]
    return [
        sample[e]
        for sample, e in zip([s for s, p in zip(order, pictures, strict=True) if p], best, strict=True)
    ]


def read(path, content):
    """The pictures and remarks of a shard, or the error it ends in; a record is read or ends in a DataError."""
    path.write_bytes(content)
    try:
        source = open_source(f"wds:{path}")
    except DataError as error:
        assert "\n" not in str(error) and "s.tar" in str(error)
        return str(error)
    pictures = []
    for i in range(len(source)):
        try:
            pictures.append(source[i]["image"])
        except DataError as error:
            assert "txt" in str(error) or "json" in str(error)
            pictures.append(None)
    assert len({source._index.text("key", i) for i in range(len(source))}) == len(source)
    return pictures, source.remarks


def agree(found, want):
    """Whether all pictures were read, but those whose record is broken."""
    return len(found) == len(want) and all(a is None or a == b for a, b in zip(found, want, strict=True))


@pytest.mark.parametrize("count", EXAMPLES)
def test_members_in_any_order_are_all_read(tmp_path, count):
    def check(first, second, form, joined):
        content, _ = tar_of(first, form)
        if joined:
            content += tar_of(second, form)[0]
        want = expected(first + second if joined else first)
        found = read(tmp_path / "s.tar", content)
        if isinstance(found, str):
            assert "cls members hold numbers" in found or (not want and "no picture" in found)
        else:
            assert agree(found[0], want)

    many(count, check, members, members, forms, st.booleans())


@pytest.mark.parametrize("count", EXAMPLES)
def test_damage_of_any_kind_is_told(tmp_path, count):
    def check(parts, form, data):
        content, headers = tar_of(parts, form)
        kind = data.draw(st.sampled_from(["flip", "zeros", "cut", "junk"]))
        at = data.draw(st.integers(0, len(content) - 1))
        if kind == "flip":
            at = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, BLOCK - 1))
            changed = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
        elif kind == "zeros":  # Whole blocks, anywhere before the last header.
            start, end = sorted(data.draw(st.integers(0, headers[-1] // BLOCK)) * BLOCK for _ in range(2))
            changed = content[:start] + bytes(end - start) + content[end:]
        elif kind == "cut":
            changed = content[:at]
        else:
            at = at // BLOCK * BLOCK
            changed = content[:at] + data.draw(st.binary(min_size=1, max_size=3)) * BLOCK + content[at:]
        found = read(tmp_path / "s.tar", changed)
        if not isinstance(found, str) and not any(
            "tar" in remark and "zeros" in remark for remark in found[1]
        ):
            want = expected(parts)
            assert len(found[0]) == len(want)  # Damage in the data of a picture is found when it is decoded.

    many(count, check, members, forms, st.data())


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_bytes_are_no_tar_file(tmp_path, count):
    def check(content):
        assert isinstance(read(tmp_path / "s.tar", content), str)

    many(count, check, st.binary(max_size=3000))
