"""Pictures without a table: which files are read, what they are called, and what is said of those left out."""

import json

import pytest
from click.testing import CliRunner

from lit_jax.commands.inspect import main
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.bad_pictures import encoded, noise
from tests.data.conftest import png, records_of

KINDS = {"jfif": "JPEG", "jpe": "JPEG", "apng": "PNG", "tif": "GIF", "dat": "WEBP", "": "BMP", "avif": "AVIF"}


def opened(root):
    return open_source(f"folder:{root}")


@pytest.fixture
def write(tmp_path):
    """`write({path: bytes or text})`: a directory of these files."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "p" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "p"

    return write


def test_files_that_the_decoder_reads_are_pictures_whatever_their_ending(write):
    files = {f"{kind}/a.{ending}".rstrip("."): encoded(noise(), kind) for ending, kind in KINDS.items()}
    files["JPEG/b.jpe"] = files.pop("JPEG/a.jpe")
    source = opened(write(files | {"PNG/text.dat": "BM or not", "TIFF/b.tif": encoded(noise(), "TIFF")}))
    assert [source[i]["image"] for i in range(len(source))] == [files[name] for name in sorted(files)]
    assert source.class_names == ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")
    assert source.remarks == (
        "2 files are left out, being no JPEG, PNG, WEBP, GIF, BMP, AVIF picture (1 .dat, 1 .tif; the first is "
        "'PNG/text.dat')",
        "1 directory holds no usable picture, and is no class: 'TIFF' with 1 file",
    )


def test_class_folders_without_a_usable_picture_are_named(write, caplog):
    root = write({"cat/1.png": png(0), "dog/1.heic": b"x", "dog/2.heic": b"y", ".hidden/1.png": png(1)})
    (root / "eel").mkdir()
    source = opened(root)
    assert source.remarks[1:] == (
        "2 directories hold no usable picture, and are no classes: 'dog' with 2 files, 'eel' with 0 files",
        "all pictures are in one directory, 'cat', so there is one class",
    )
    assert caplog.messages == [f"{source.spec}: {remark}" for remark in source.remarks]


def test_class_folders_called_by_numbers_are_in_the_order_of_the_numbers(write):
    source = opened(write({f"{i}/x.png": png(i) for i in range(12)}))
    assert source.class_names == tuple(map(str, range(12)))
    assert {source[i]["id"]: source[i]["label"] for i in range(12)} == {f"{i}/x": i for i in range(12)}


def test_an_id_keeps_the_ending_where_two_pictures_differ_in_nothing_else(write):
    source = opened(write({"x/0.jpg": png(0), "x/0.png": png(1), "x/1.png": png(2), "y/0.png": png(3)}))
    assert [name for name, _ in records_of(source)] == ["x/0.jpg", "x/0.png", "x/1", "y/0"]
    assert source.remarks == (
        "2 pictures have the name of another one except for the ending (the first is 'x/0.jpg'); their id is the whole "
        "file name",
    )


def test_ids_are_distinct_even_if_a_name_without_ending_is_another_name(write):
    source = opened(write({"x/0.jpg": png(0), "x/0.png": png(1), "x/0.png.png": png(2), "y/1.png": png(3)}))
    assert [name for name, _ in records_of(source)] == ["x/0.jpg", "x/0.png", "x/0.png.png", "y/1.png"]


def test_a_byte_order_mark_is_no_part_of_a_caption(write):
    source = opened(write({"a.png": png(0), "a.txt": b"\xef\xbb\xbfa cat\r\n"}))
    assert records_of(source) == [("a", ["a cat"])]


def test_pictures_without_their_text_and_texts_without_a_picture_are_counted(write):
    root = write(
        {"a.png": png(0), "a.txt": "a", "b.png": png(1), "c.txt": "c", "README.md": "x", "Thumbs.db": b"\0"}
    )
    assert opened(root).remarks == (
        "1 file is left out, being no JPEG, PNG, WEBP, GIF, BMP, AVIF picture (1 .txt; the first is 'c.txt')",
        "1 picture without a .txt file beside it, each a broken record (the first is 'b.png')",
    )


def test_links_to_directories_are_counted(write):
    root = write({"cat/1.png": png(0), "dog/1.png": png(1)})
    (root / "eel").symlink_to(root / "cat")
    (root / "cat" / "2.png").symlink_to(root / "dog" / "1.png")
    source = opened(root)
    assert source.remarks[0] == "links to directories are not followed: 1 (the first is 'eel')"
    assert [source[i]["image"] for i in range(3)] == [png(0), png(1), png(1)]


@pytest.mark.parametrize("name", ["d[1]", "a[", "x]*", "q?[!a]"])
def test_marks_in_the_name_of_a_directory_stand_for_themselves(write, name):
    root = write({f"{name}/a.png": png(0), f"{name}/a.txt": "a", "d1/b.png": png(1), "d1/b.txt": "b"})
    assert records_of(opened(root / name)) == records_of(open_source(str(root / name))) == [("a", ["a"])]
    assert records_of(opened(root)) == [("d1/b", ["b"]), (f"{name}/a", ["a"])][:: 1 if name > "d1" else -1]


def test_inspect_tells_what_is_left_out_and_that_labels_have_no_names(write, tmp_path):
    root = write({"0/1.png": png(0), "10/1.png": png(1), "2/1.tif": b"II*\0"})
    done = CliRunner().invoke(main, [f"folder:{root}", "--json", str(tmp_path / "j")], catch_exceptions=False)
    wanted = (
        "1 file is left out, being no",
        "1 directory holds no usable picture, and is no class: '2' with 1 file",
        "the names of its 2 classes are numbers (0, 10); zero-shot classification needs names",
    )
    remarks = json.loads((tmp_path / "j").read_text())["remarks"]
    assert len(remarks) == 3
    for remark, words in zip(remarks, wanted, strict=True):
        assert remark.startswith(words) and f"folder:{root}: {remark}" in done.output


def test_inspect_tells_that_labels_are_numbers_without_names(write):
    root = write({"captions.csv": "file_name,label\na.png,7\n", "a.png": png(0)})
    done = CliRunner().invoke(main, [f"folder:{root}"], catch_exceptions=False)
    assert "its labels are numbers without names; zero-shot classification needs names" in done.output


def test_a_broken_table_ends_inspect_with_its_line(write):
    root = write({"captions.csv": 'file_name,caption\na.png,"a\n', "a.png": png(0)})
    with pytest.raises(DataError, match="line 2 of captions"):
        CliRunner().invoke(main, [f"folder:{root}"], catch_exceptions=False)
