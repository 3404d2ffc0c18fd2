"""CSV and TSV: line ends, quotes and labels. The right values are those of Python's csv on the whole file."""

import csv
import io

import pytest

from lit_jax.data.sources import folder_csv
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, records_of

ODD = "\u2028 \u2029 \x0b \x0c \x1c \x1d \x1e \x85"  # Python's str.splitlines splits at them; no table does.


def opened(pictures, text, name="captions_csv", pictures_of=("a.png", "b.png", "c.png")):
    return open_source(f"folder:{pictures(*pictures_of, **{name: text})}")


def as_csv_reads(text, delimiter=","):
    """{file: captions} by the csv module."""
    found = {}
    for file, caption in list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]:
        found.setdefault(file, []).append(caption)
    return list(found.items())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("odd", ODD.split(" "), ids=lambda c: f"U+{ord(c):04X}")
def test_only_line_ends_end_a_row(pictures, odd, end):
    text = end.join(["file_name,caption", f"a.png,x{odd}y", f'b.png,"{odd}, z"', "c.png,last", ""])
    source = opened(pictures, text.encode())
    assert records_of(source) == as_csv_reads(text) and source[0]["captions"] == [f"x{odd}y"]


def test_line_ends_within_quotes_are_kept(pictures):
    text = 'file_name,caption\r"a.png","x\ry\n\nz\r\n"\r"b.png",b\r'
    source = opened(pictures, text.encode())
    assert records_of(source) == as_csv_reads(text) == [("a.png", ["x\ry\n\nz\r\n"]), ("b.png", ["b"])]


@pytest.mark.parametrize(("name", "cut"), [("captions_csv", ","), ("captions_tsv", "\t")])
def test_a_file_that_ends_within_a_quote_is_refused_with_its_line(pictures, name, cut):
    rows = ["file_name,caption", "a.png,a", 'b.png,"a sign', "c.png,c", "a.png,d"]
    with pytest.raises(
        DataError, match=r'p: line 3 of captions.*a quote \("\) is opened .* line 5, the last'
    ):
        opened(pictures, "\n".join(rows).replace(",", cut), name)


def test_a_quote_that_opens_the_names_of_the_columns_is_refused(pictures):
    with pytest.raises(DataError, match=r"line 1 .* a quote .* names of the columns"):
        opened(pictures, 'file_name,"caption\na.png,a\nb.png,b\n')


def test_rows_that_a_stray_quote_has_joined_are_refused_with_their_lines(pictures):
    rows = ["file_name,caption", "a.png,a", 'b.png,"a sign', "c.png,c", 'a.png,"another" one', "b.png,e"]
    with pytest.raises(
        DataError, match=r"line 3 .* closed within line 5, .* so that 3 lines would be one row"
    ):
        opened(pictures, "\n".join(rows))


def test_quoted_cells_that_span_lines_are_counted_with_the_first_place(pictures, caplog):
    rows = [
        *("file_name,caption", "a.png,a", 'b.png,"a sign', "c.png,c", 'a.png,x "'),
        *('c.png,"two', 'lines"', "b.png,b"),
    ]
    source = opened(pictures, "\n".join(rows))
    assert len(source) == 3
    (remark,) = source.remarks
    assert remark.startswith(
        "2 rows of captions.csv with a quoted cell that spans several lines (the first in the lines 3 to 5); "
        "2 of these lines look like rows of the table; where that is not meant"
    )
    assert caplog.messages == [f"{source.spec}: {remark}"]


def test_quotes_that_csv_drops_are_counted(pictures):
    source = opened(pictures, 'file_name,caption\na.png,"no"\nb.png,"stop" signs\nc.png,a "c"\n')
    assert source[1]["captions"] == ["stop signs"] and source[2]["captions"] == ['a "c"']
    (remark,) = source.remarks
    assert remark.startswith("1 row of captions.csv with text behind a closing quote (the first is line 3)")


@pytest.mark.parametrize(
    ("cells", "labels", "names"),
    [
        (["0", "10", "2"], [0, 10, 2], None),
        (["1.0", "0.", "2"], [1, 0, 2], None),
        (["²", "½", "x"], [1, 2, 0], ("x", "²", "½")),
        (["٣", "cat", "٤"], [1, 0, 2], ("cat", "٣", "٤")),
    ],
)
def test_only_ascii_digits_are_a_number(pictures, cells, labels, names):
    rows = "".join(f"{file}.png,{cell}\n" for file, cell in zip("abc", cells, strict=True))
    source = opened(pictures, f"file_name,label\n{rows}")
    assert [source[i]["label"] for i in range(3)] == labels
    assert source.class_names == names


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("9" * 5000, "line 2 .* label has 5000 digits"),
        ("3000000000", "label is 3e.09, want a number from 0"),
        ("-1", "label is -1, want a number from 0 to 2147483647, or none"),
        (b"\xff", "label is invalid UTF-8 at character 0"),
    ],
)
def test_a_label_that_is_no_class_is_refused(pictures, cell, words):
    cell = cell if isinstance(cell, bytes) else cell.encode()
    with pytest.raises(DataError, match=words):
        opened(pictures, b"file_name,label\na.png," + cell + b"\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,caption,caption\na.png,a,b\n", "2 columns are called 'caption'; give each its own name"),
        (
            "file_name,caption\na.png,a, b\n",
            "3 cells, want 2 .* put a caption that contains ',' between quotes",
        ),
        (
            "file_name,caption\n".encode("utf-16"),
            "line 1 of captions.csv is UTF-16; save it as UTF-8",
        ),
    ],
)
def test_a_table_of_another_form_is_refused_with_the_way_out(pictures, text, words):
    with pytest.raises(DataError, match=words):
        opened(pictures, text)


def test_a_file_name_that_is_not_utf_8_breaks_only_its_record(pictures):
    source = opened(pictures, b"file_name,caption\n\xff.png,x\na.png,a\n\xff.png,y\n")
    assert len(source) == 2 and source[0] == {"image": png(0), "captions": ["a"], "id": "a.png"}
    with pytest.raises(DataError, match="invalid UTF-8 at byte 0"):
        source[1]


def test_a_cell_may_be_longer_than_csv_allows_by_itself_and_its_limit_stays(pictures, monkeypatch):
    before, caption = csv.field_size_limit(), "x" * 300_000
    source = opened(pictures, f"file_name,caption\na.png,{caption}\nb.png,b\n")
    assert [record["captions"] for record in source] == [[caption], ["b"]]
    assert csv.field_size_limit() == before < len(caption)
    monkeypatch.setattr(folder_csv, "_LONGEST", 1000)
    with pytest.raises(
        DataError, match=r"line 2 .* field larger than field limit \(1000\); shorten the cell"
    ):
        opened(pictures, f"file_name,caption\na.png,{caption}\n")
    assert csv.field_size_limit() == before
