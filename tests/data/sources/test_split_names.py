"""Files of several splits in one directory are not taken for one set."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_jax.data.sources.base import remarks_of
from lit_jax.data.sources.registry import open_source
from lit_jax.data.sources.split_names import remarks_on_splits
from lit_jax.utils.errors import DataError
from tests.data.conftest import png
from tests.data.sources.test_arrow import table
from tests.data.sources.test_arrow import write as write_arrow


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-0.tar", "test-0.tar"], "test, train"),
        (["cc3m-train-0000.tar", "cc3m-validation-0000.tar"], "train, validation"),
        (["a_val_1.tar", "b_test_1.tar", "c.tar"], "val, test"),
        (["train2017.tar", "val2017.tar"], "train2017, val2017"),
        (["TRAIN.tar", "dev.tar"], "train, dev"),
        (["train-0.tar", "train-1.tar"], None),
        (["train-test-0.tar", "train-val-0.tar"], None),
        (["train-0.tar", "more-0.tar"], None),
        (["00000.tar", "contest-1.tar", "trained.tar"], None),
        (["test.tar"], None),
        ([], None),
    ],
)
def test_a_split_is_the_first_word_of_a_name_that_is_one(names, splits):
    said = remarks_on_splits([f"dir/of/tests/{name}" for name in names])
    assert said == (
        [f"The files are those of several splits: {splits}. All of them are read."] if splits else []
    )


def write(kind, path):
    path.parent.mkdir(exist_ok=True)
    if kind == "arrow":
        write_arrow(path, table(0, 1))
    elif kind == "parquet":
        pq.write_table(table(0, 1), path)
    else:
        (path.parent / "0.png").write_bytes(png(0))
        with tarfile.open(path, "w") as tar:
            tar.add(path.parent / "0.png", "0.png")
        (path.parent / "0.png").unlink()


@pytest.mark.parametrize(("kind", "ending"), [("wds", "tar"), ("parquet", "parquet"), ("arrow", "arrow")])
def test_a_directory_of_several_splits_is_refused_and_a_pattern_of_them_is_remarked_on(
    kind, ending, tmp_path
):
    for split in ("train", "test"):
        write(kind, tmp_path / "set" / f"web-{split}-0.{ending}")
    folder = f"{tmp_path}/set"
    for spec in (f"{kind}:{folder}", folder):
        with pytest.raises(
            DataError, match=r"several splits: test, train; name those of one, as in .*"
        ) as error:
            open_source(spec)
        named = str(error.value).rpartition(" as in ")[2]
        assert named == f"{kind}:{folder}/web-train*.{ending}"
    one = open_source(named)
    assert len(one) == 1 and not any("splits" in remark for remark in remarks_of(one))
    both = open_source(f"{kind}:{folder}/*.{ending}")
    assert "The files are those of several splits: test, train. All of them are read." in remarks_of(both)
    assert len(both) in (1, 2)
    with pytest.raises(DataError, match=rf"as in {folder}/web-train\*\.{ending}"):
        open_source(f"{kind}:{folder}::{folder}/web-train-0.{ending}")


def rows_of(splits):
    names = [f"{i}.png" for i in range(len(splits))]
    return [{"file_name": n, "caption": f"a {n}", "split": s} for n, s in zip(names, splits, strict=True)]


def write_rows(kind, folder, splits):
    rows = rows_of(splits)
    for i, row in enumerate(rows):
        (folder / row["file_name"]).write_bytes(png(i))
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        lines = [",".join(map(str, row.values())) for row in rows]
        (folder / "captions.csv").write_text("\n".join(["file_name,caption,split", *lines]) + "\n")
    else:
        columns = {"image": [png(i) for i in range(len(rows))], "caption": [row["caption"] for row in rows]}
        content = pa.table(columns | {"split": pa.array([row["split"] for row in rows]).dictionary_encode()})
        if kind == "arrow":
            write_arrow(folder / "0.arrow", content)
        else:
            pq.write_table(content, folder / "0.parquet")
    return open_source(f"{kind if kind in ('parquet', 'arrow') else 'folder'}:{folder}")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "arrow"])
@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["train", "test", "train", "VAL"], "(train 2, test 1, VAL 1)"),
        (["train", "train"], None),
        (["left", "right"], None),
        (["train", "restval"], None),
        (["", "test"], None),
    ],
)
def test_a_column_of_splits_is_remarked_on_where_it_names_several(kind, splits, said, tmp_path):
    found = [remark for remark in remarks_of(write_rows(kind, tmp_path, splits)) if "splits" in remark]
    assert len(found) == (said is not None)
    assert not said or f"the rows are those of several splits {said}, and all of them are read" in found[0]


def test_a_column_of_splits_may_be_missing_from_a_file_occur_twice_or_hold_the_captions(tmp_path):
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "captions.csv").write_text("file_name,caption,split,split\n0.png,a,train,test\n")
    assert remarks_of(open_source(f"folder:{tmp_path}")) == ()
    (tmp_path / "captions.csv").write_text("file_name,split\n0.png,train\n0.png,test\n")
    source = open_source(f"folder:{tmp_path}", caption="split")
    assert source[0]["captions"] == ["train", "test"] and remarks_of(source) == ()
    pq.write_table(
        pa.table({"image": [png(0)], "split": ["train"], "caption": ["a"]}), tmp_path / "0.parquet"
    )
    pq.write_table(pa.table({"image": [png(1)], "caption": ["b"]}), tmp_path / "1.parquet")
    assert remarks_of(open_source(f"parquet:{tmp_path}")) == ()
    source = open_source(f"parquet:{tmp_path}/0.parquet", caption="split")
    assert source[0]["captions"] == ["train"] and remarks_of(source) == ()
