"""Well-known sets as they come: read, or refused by name with the way out."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, records_of

DOCS = Path(__file__).parents[3] / "docs" / "data.md"
ROWS = [(f"{i}.jpg", f"picture {i}, caption {j}") for i in range(3) for j in range(2)]


def flickr8k():
    out = io.StringIO()
    csv.writer(out).writerows([("image", "caption"), *ROWS])
    return {"captions.txt": out.getvalue()}


def flickr30k():
    lines = [f'{name}| {i}| "{text}"' for i, (name, text) in enumerate(ROWS)]
    return {"results.csv": "image_name| comment_number| comment\n" + "\n".join(lines) + "\n"}


@pytest.fixture
def write(tmp_path):
    """`write({path: content}, pictures)`: a directory of these files and pictures."""

    def write(files, pictures=()):
        root = tmp_path / "set"
        for name, content in [*files.items(), *((name, png(i)) for i, name in enumerate(pictures))]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


@pytest.mark.parametrize("prefix", ["folder:", ""])
@pytest.mark.parametrize("folder", ["", "Images/", "flickr30k_images/flickr30k_images/"])
@pytest.mark.parametrize("table", [flickr8k, flickr30k])
def test_the_tables_of_flickr_are_read_with_pictures_beside_or_below(write, table, folder, prefix):
    root = write(table(), [f"{folder}{i}.jpg" for i in range(3)])
    source = open_source(f"{prefix}{root}")
    quote = '"' if table is flickr30k else ""
    want = [
        (f"{i}.jpg", [f"{quote}{text}{quote}" for name, text in ROWS if name == f"{i}.jpg"]) for i in range(3)
    ]
    assert records_of(source) == want and source.class_names is None
    assert [source[i]["image"] for i in range(3)] == [png(i) for i in range(3)]


def test_a_row_of_flickr30k_with_a_cell_too_few_is_named(write):
    table = flickr30k()["results.csv"] + "2.jpg| 4   A dog runs .\n"
    with pytest.raises(DataError, match=r"line 8 of results\.csv: 2 cells, want 3"):
        open_source(f"folder:{write({'results.csv': table}, ['0.jpg'])}")


COCO = json.dumps(
    {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}
)
REFUSED = {
    "COCO": (
        {"annotations/captions_val2017.json": COCO},
        ["val2017/1.jpg"],
        r"captions_val2017\.json is a file of COCO",
    ),
    "COCO beside": ({"captions_val2017.json": COCO}, ["1.jpg"], r"captions_val2017\.json is a file of COCO"),
    "Karpathy": ({"dataset_coco.json": "{}"}, ["val2014/1.jpg"], "is a file of Karpathy's splits"),
    "Flickr8k as it was": (
        {"Flickr8k.token.txt": "1.jpg#0\ta"},
        ["Images/1.jpg"],
        "a table of Flickr8k or Flickr30k",
    ),
    "captions.txt": (
        {"captions.txt": "1.jpg#0\ta"},
        ["Images/1.jpg"],
        "whose first line is not image,caption",
    ),
    "parquet": (
        {"metadata.parquet": b"PAR1"},
        ["1.png"],
        "a table of an imagefolder in parquet, which is not read",
    ),
    "splits": ({}, ["train/cat/1.png", "test/cat/2.png"], "test, train are splits, not classes; .*set/test"),
    "one split": ({}, ["train/cat/1.png"], "train are splits, not classes; .*set/train"),
    "splits in data": (
        {},
        ["data/train/cat/1.png", "data/val/cat/2.png"],
        "splits, not classes; .*set/data/train",
    ),
    "tables": (
        {"train/metadata.jsonl": "{}", "test/metadata.jsonl": "{}"},
        ["train/1.png", "test/1.png"],
        r"its table metadata\.jsonl is in test; name that directory: folder:.*set/test",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("prefix", ["folder:", ""])
def test_a_layout_that_is_not_read_is_refused_with_the_way_out(write, case, prefix):
    files, pictures, words = REFUSED[case]
    if case == "splits in data" and not prefix:
        words = "is a directory without .* or folder:.* for a directory for each class"  # It may hold parquet files.
    with pytest.raises(DataError, match=words) as error:
        open_source(f"{prefix}{write(files, pictures)}")
    assert "\n" not in str(error.value) and "; " in str(error.value)


def test_the_way_out_for_coco_in_the_documents_makes_a_table(write, monkeypatch):
    (snippet,) = re.findall(r"```python\n(import json.*?)```", DOCS.read_text(), re.DOTALL)
    coco = {
        "images": [{"id": 7, "file_name": "1.jpg"}, {"id": 3, "file_name": "2.jpg"}],
        "annotations": [{"image_id": i, "caption": f"{i} {j}"} for j in range(2) for i in (3, 7)],
    }
    files = {"annotations/captions_val2017.json": json.dumps(coco)}
    root = write(files, ["val2017/1.jpg", "val2017/2.jpg"])
    monkeypatch.chdir(root)
    exec(snippet, {})
    source = open_source(f"folder:{root}/val2017")
    assert records_of(source) == [("1.jpg", ["7 0", "7 1"]), ("2.jpg", ["3 0", "3 1"])]


def img2dataset(texts, captions):
    files = {"00000.parquet": b"PAR1", "00000_stats.json": "{}"}
    for i in range(3):
        name = f"00000/00000000{i}"
        files[f"{name}.json"] = json.dumps(
            {"caption": f"c{i}" if captions else None, "alt": f"a{i}", "key": i}
        )
        if texts:
            files[f"{name}.txt"] = f"c{i}"
    return files, [f"00000/00000000{i}.jpg" for i in range(3)]


@pytest.mark.parametrize("prefix", ["folder:", ""])
@pytest.mark.parametrize("texts", [True, False], ids=["txt", "json alone"])
def test_the_files_of_img2dataset_are_read(write, texts, prefix):
    source = open_source(f"{prefix}{write(*img2dataset(texts, True))}")
    assert records_of(source) == [(f"00000/00000000{i}", [f"c{i}"]) for i in range(3)]
    assert source.class_names is None and source.remarks == ()


def test_the_named_caption_is_that_of_the_json_beside_a_picture(write):
    source = open_source(f"folder:{write(*img2dataset(True, True))}", caption="alt")
    assert records_of(source) == [(f"00000/00000000{i}", [f"a{i}"]) for i in range(3)]


def test_a_named_caption_that_no_json_beside_a_picture_has_is_told(write):
    source = open_source(f"folder:{write({'a.txt': 'text'}, ['a.png'])}", caption="alt")
    assert records_of(source) == [("a", ["text"])]
    assert source.remarks == (
        "no .json file beside a picture has 'alt', so it is not read, and the captions are those of the .txt files",
    )


def test_json_files_without_captions_leave_directories_to_be_classes(write):
    source = open_source(
        f"folder:{write({'cat/1.json': json.dumps({'box': [1]})}, ['cat/1.png', 'dog/2.png'])}"
    )
    assert source.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "content", ["[", "[]", '{"caption": 3}', b"\xff", "[" * 100_000, '{"caption": ' + "9" * 5000]
)
def test_a_json_beside_a_picture_that_is_broken_breaks_its_record(write, content):
    files, pictures = img2dataset(False, True)
    source = open_source(f"folder:{write(files | {'00000/000000001.json': content}, pictures)}")
    assert source[0]["captions"] == ["c0"] and source[2]["captions"] == ["c2"]
    with pytest.raises(DataError) as error:
        source[1]
    assert "\n" not in str(error.value)


def test_texts_in_splits_are_read_as_one_set_with_a_remark(write):
    root = write({"train/1.txt": "a", "test/2.txt": "b"}, ["train/1.png", "test/2.png"])
    source = open_source(f"folder:{root}")
    assert len(source) == 2
    assert source.remarks == (
        f"the splits test, train are read as one set; name one of them, as in {source.spec}/test",
    )
