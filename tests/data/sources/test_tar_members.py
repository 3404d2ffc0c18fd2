"""Tar shards that are damaged, joined or written by other tools: all is read, or a sentence names shard and byte."""

import io
import re
import tarfile

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, write_tar

BLOCK = 512


def members_of(first, last):
    return [
        part
        for i in range(first, last)
        for part in ((f"{i:03}.png", png(i)), (f"{i:03}.txt", f"caption {i}".encode()))
    ]


def headers(path):
    """The byte of each header, as Python's own tar reader finds them."""
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


@pytest.fixture
def shard(tmp_path):
    """A shard of six samples, twelve members."""
    write_tar(tmp_path / "0.tar", members_of(0, 6))
    return tmp_path / "0.tar"


def refused(path, words):
    with pytest.raises(DataError, match=words) as error:
        open_source(f"wds:{path}")
    assert "\n" not in str(error.value) and f"shard {path.name}" in str(error.value)
    return str(error.value)


def test_a_damaged_header_is_named_by_its_byte(shard):
    data, at = bytearray(shard.read_bytes()), headers(shard)[5]
    data[at + 3] ^= 1
    shard.write_bytes(data)
    refused(shard, f"at byte {at}, a block that is not the header of a member")


def test_a_hole_of_zeros_over_a_header_is_named_by_the_byte_where_it_ends(shard):
    data, at = bytearray(shard.read_bytes()), headers(shard)[4]
    data[at : at + BLOCK] = bytes(BLOCK)
    shard.write_bytes(data)
    refused(
        shard, f"at byte {at + BLOCK}, zeros, which end a tar file, and then a block that is not the header"
    )


def test_a_hole_of_zeros_over_whole_members_is_a_remark_with_its_byte(shard):
    data, at = bytearray(shard.read_bytes()), headers(shard)
    data[at[4] : at[8]] = bytes(at[8] - at[4])
    shard.write_bytes(data)
    source = open_source(f"wds:{shard}")
    assert ids(source) == ["000", "001", "004", "005"]
    assert any(f"the first is that at byte {at[8]} of 0.tar" in remark for remark in source.remarks)


def test_a_cut_at_a_header_is_a_remark_with_its_byte(shard):
    at = headers(shard)[4]
    shard.write_bytes(shard.read_bytes()[:at])
    source = open_source(f"wds:{shard}")
    assert ids(source) == ["000", "001"]
    assert [f"0.tar at byte {at}" in remark and "cut off" in remark for remark in source.remarks] == [True]


@pytest.mark.parametrize("cut", [-1, -BLOCK, 1, 100, BLOCK, BLOCK + 40])
def test_a_cut_inside_a_member_is_named_by_the_byte_where_the_file_ends(shard, cut):
    at = headers(shard)[4] + cut
    shard.write_bytes(shard.read_bytes()[:at])
    words = refused(shard, r"at byte \d+, .*fetch it again")
    assert int(re.search(r"at byte (\d+)", words)[1]) in (at, at // BLOCK * BLOCK)


def test_the_zeros_at_the_end_may_be_of_any_length(shard):
    data = shard.read_bytes()
    end = headers(shard)[-1] + 2 * BLOCK
    for size in (100, BLOCK, BLOCK + 7, 2 * BLOCK, 20 * BLOCK):
        shard.write_bytes(data[:end] + bytes(size))
        source = open_source(f"wds:{shard}")
        assert len(source) == 6 and source.remarks == ()


def test_many_zeros_at_the_end_are_a_remark_as_in_an_unfinished_download(shard):
    at = headers(shard)[6]
    shard.write_bytes(shard.read_bytes()[:at] + bytes(100_000))
    source = open_source(f"wds:{shard}")
    assert ids(source) == ["000", "001", "002"]
    (remark,) = source.remarks
    assert "may not have been fetched: 1, the first is 0.tar, whose last 100,000 bytes are zeros" in remark


def test_tars_joined_by_cat_are_read_to_the_end(tmp_path):
    write_tar(tmp_path / "a", members_of(0, 3))
    write_tar(tmp_path / "b", members_of(3, 5))
    first = (tmp_path / "a").read_bytes()
    (tmp_path / "0.tar").write_bytes(first + (tmp_path / "b").read_bytes())
    source = open_source(f"wds:{tmp_path}/0.tar")
    assert [(source[i]["image"], source[i]["captions"]) for i in range(len(source))] == [
        (png(i), [f"caption {i}"]) for i in range(5)
    ]
    (remark,) = source.remarks
    assert f"at byte {len(first)} of 0.tar" in remark and ": 1," in remark


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_belong_to_their_members_or_are_damage(tmp_path, form):
    name, path = "x" * 180 + "é", tmp_path / "0.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for ending, data in (("png", png(0)), ("txt", b"a")):
            info = tarfile.TarInfo(f"{name}.{ending}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (record,) = list(open_source(f"wds:{path}"))
    assert record == {"image": png(0), "captions": ["a"], "id": name}
    data = bytearray(path.read_bytes())
    data[2 * BLOCK] ^= 1  # The header of the member itself; its long name comes before it.
    path.write_bytes(data)
    refused(path, "at byte 0, a long name or attributes without the header of a member")


def test_names_that_are_not_utf_8_stay_distinct(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        for name in ("é", "ü"):
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(png(0))
            tar.addfile(info, io.BytesIO(png(0)))
    (tmp_path / "0.tar").write_bytes(data.getvalue())
    assert ids(open_source(f"wds:{tmp_path}")) == [r"\xe9", r"\xfc"]


def test_links_and_sparse_members_are_counted(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        info = tarfile.TarInfo("0.png")
        info.size = len(png(0))
        tar.addfile(info, io.BytesIO(png(0)))
        for name, kind in (("1.png", tarfile.LNKTYPE), ("2.png", tarfile.SYMTYPE), ("d", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.png"
            tar.addfile(info)
    source = open_source(f"wds:{tmp_path}")
    assert ids(source) == ["0"]
    assert source.remarks == (
        "Members that are links, sparse or no files are not read: 2, the first is '1.png' at byte 1024 of 0.tar.",
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty; fetch it again"),
        (b"\x1f\x8b" + bytes(2000), "it is compressed by gzip; unpack it"),
        (b"PK\x03\x04" + bytes(2000), "it is a zip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>" + b" " * 2000, "it is a web page; fetch the file itself"),
        (b"url,caption\n" * 200, "it is no tar file; pack its files with tar"),
    ],
)
def test_what_is_no_tar_file_is_told_what_it_is(tmp_path, data, words):
    path = tmp_path / "0.tar"
    path.write_bytes(data)
    assert words in refused(path, "is not a complete tar file: at byte 0, it is no tar file")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_zeros_in_the_place_of_a_long_name_are_damage(tmp_path, form):
    long = "x" * 120
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name in ("0.jpg", f"{long}.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(png(0))
            tar.addfile(member, io.BytesIO(png(0)))
    content = path.read_bytes()
    at = content.index(long.encode())
    at -= at % 512
    path.write_bytes(content[:at] + bytes(512) + content[at + 512 :])
    with pytest.raises(DataError, match=f"at byte {at - 512}, a long name or attributes that are lost"):
        open_source(f"wds:{path}")
