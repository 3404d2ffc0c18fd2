"""What lit-jax inspect reports of broken sources, written by json, tarfile and pyarrow: counts and first places."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from lit_jax.commands.inspect import main
from lit_jax.utils.errors import DataError
from tests.data.conftest import png

SIX = [part for i in range(6) for part in ((f"{i}.png", png(i)), (f"{i}.txt", b"a text"))]


def table(text, name="captions.csv"):
    return tree({name: text.encode()} | {f"{i}.png": png(i) for i in range(6)})


def json_lines(*rows):
    return table("".join(json.dumps(row) + "\n" for row in rows), "metadata.jsonl")


def tree(files):
    def write(folder):
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return f"folder:{folder}"

    return write


def tar(parts, change=lambda content: content):

    def write(folder):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as shard:
            for name, content in parts:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
        (folder / "0.tar").write_bytes(change(file.getvalue()))
        return f"wds:{folder}"

    return write


def over(member, content):
    """A change that writes `content` over the header of a member and what follows it."""
    at = offset(member)
    return lambda data: data[:at] + content + data[at + len(content) :]


def parquet(columns):
    def write(folder):
        pq.write_table(pa.table(columns), folder / "0.parquet")
        return f"parquet:{folder}"

    return write


def offset(member):
    """The byte at which tarfile begins a member of SIX."""
    return sum(512 + -(-len(content) // 512) * 512 for _, content in SIX[:member])


# What is broken -> how to write it, and what is reported: a remark, or an error if it begins with "!".
BROKEN = {
    "a quote that is never closed": (
        table('file_name,caption\n0.png,a\n1.png,"b\n2.png,c\n'),
        '!line 3 of captions.csv: a quote (") is opened here and never closed',
    ),
    "a quote that joins rows": (
        table('file_name,caption\n0.png,"a\n1.png,b\n2.png,"c" d\n'),
        '!line 2 of captions.csv: a quote (") that is opened here is closed within line 4',
    ),
    "a cell that spans lines": (
        table('file_name,caption\n0.png,"a\n1.png,b\n2.png,c"\n3.png,d\n'),
        "1 row of captions.csv with a quoted cell that spans several lines (the first in the lines 2 to 4)",
    ),
    "labels of two kinds": (
        table("file_name,caption,label\n0.png,a,\u00b2\n1.png,b,3\n"),
        "!line 3 of captions.csv: labels are both numbers and names",
    ),
    "a picture that is not there": (
        table("file_name,caption\n0.png,a\n9.png,b\n8.png,c\n"),
        "2 records are broken (the first is record 1: '9.png' cannot be read: No such file or directory)",
    ),
    "a line that is not JSON": (table("{}\n{\n", "metadata.jsonl"), "!line 1 of metadata.jsonl"),
    "an empty caption beside another": (
        json_lines(
            {"file_name": "0.png", "captions": ["a"]}, {"file_name": "1.png", "captions": ["b", "", " "]}
        ),
        "2 captions beside others, empty or no text, left out (the first in record 1)",
    ),
    "a picture without a caption": (
        json_lines({"file_name": "0.png", "caption": "a"}, {"file_name": "1.png"}),
        "1 record has no caption (the first is record 1)",
    ),
    "an id of two records": (
        json_lines(*({"file_name": f"{i}.png", "caption": "a", "id": "x"} for i in range(2))),
        "2 pictures share their id with another one (the first is 'x' of '0.png')",
    ),
    "captions of COCO": (table("{}", "captions_val2017.json"), "!captions_val2017.json is a file of COCO"),
    "a file that is no picture": (
        tree({"a/0.png": png(0), "b/1.tif": b"II*\0", "b/2.tif": b"II*\0"}),
        "2 files are left out, being no JPEG, PNG, WEBP, GIF, BMP, AVIF picture (2 .tif; the first is 'b/1.tif')",
    ),
    "classes that are numbers": (
        tree({f"{i}/0.png": png(i) for i in range(12)}),
        "the names of its 12 classes are numbers (0, 1, 2 ...)",
    ),
    "two pictures of one name": (
        tree({"x/0.png": png(0), "x/0.jpg": png(1), "x/0.txt": b"a"}),
        "2 pictures have the name of another one except for the ending (the first is 'x/0.jpg')",
    ),
    "a picture without its text": (
        tree({"0.png": png(0), "0.txt": b"a", "1.png": png(1)}),
        "1 picture without a .txt file beside it, each a broken record (the first is '1.png')",
    ),
    "splits beside each other": (
        tree({"train/cat/0.png": png(0), "test/cat/1.png": png(1)}),
        "!the directories test, train are splits, not classes",
    ),
    "one picture in two files": (
        tree({"a/0.png": png(0), "a/1.png": png(1), "a/2.png": png(0)}),
        "1 record has the picture of an earlier one (the first is record 2, with that of record 0)",
    ),
    "a damaged header of a tar": (
        tar(SIX, over(5, b"x" * 512)),
        f"!shard 0.tar is not a complete tar file: at byte {offset(5)}, a block that is not the header",
    ),
    "zeros over a header": (
        tar(SIX, over(5, bytes(512))),
        f"!shard 0.tar is not a complete tar file: at byte {offset(5) + 512}, zeros, which end a tar file",
    ),
    "zeros over a member": (
        tar(SIX, over(4, bytes(offset(5) - offset(4)))),
        f"the members from there on are read too: 1, the first is that at byte {offset(5)} of 0.tar",
    ),
    "a cut at a header": (
        tar(SIX, lambda content: content[: offset(5)]),
        f"Shards end without the zeros that end a tar file, so they may be cut off: 1, the first is 0.tar at byte "
        f"{offset(5)}",
    ),
    "a cut in a member": (
        tar(SIX, lambda content: content[: offset(2) + 600]),
        f"!shard 0.tar is not a complete tar file: at byte {offset(2) + 600}, the file is cut off in '1.png'",
    ),
    "a name twice in a tar": (
        tar([*SIX[:2], *SIX]),
        f"Members whose name occurs once more in their shard belong to samples of their own: 1, the first is '0.png' "
        f"at byte {offset(2)} of 0.tar",
    ),
    "a label that is unknown": (
        tar([("0.png", png(0)), ("0.cls", b"-1"), ("1.png", png(1)), ("1.cls", b"2")]),
        "Members cls that are empty or -1 give no label: 1, the first is '0.cls' at byte",
    ),
    "a row that failed to download": (
        parquet(
            {
                "jpg": [png(0), None, None],
                "caption": ["a", "b", "c"],
                "status": ["success", "failed_to_download", "failed_to_download"],
            }
        ),
        "left out: 2, the first is row 1 of 0.parquet (failed_to_download)",
    ),
    "a parquet file that is a web page": (
        lambda folder: (folder / "0.parquet").write_bytes(b"<html>") and f"parquet:{folder}",
        "!0.parquet cannot be read as parquet: it is a web page",
    ),
}


@pytest.mark.parametrize(("write", "told"), BROKEN.values(), ids=BROKEN)
def test_inspect_reports_what_is_broken_with_counts_and_the_first_place(write, told, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    spec = write(folder)
    done = CliRunner().invoke(main, [spec])
    if told.startswith("!"):
        assert isinstance(done.exception, DataError)
        assert str(done.exception).startswith(f"{spec}: {told[1:]}")
    else:
        assert done.exit_code == 0, done.output
        assert any(line.startswith(f"{spec}: ") and told in line for line in done.output.splitlines())
