"""`inspect` counts correctly, and its sheet shows the pairs."""

import io
import json
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lit_jax.commands.inspect import main
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.contact_sheet import contact_sheet
from lit_jax.data.tools.summary import summarize
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny
from tests.data.conftest import RECORDS, png


@pytest.fixture
def mixed(write_folder):
    """Eight records: two of one picture, one of another size, one without a caption, two broken."""
    names = ["00.png", "01.png", "copy.png", "wide.png", "02.png", "03.png", "gone.png", "04.png"]
    captions = [["a red square"], ["a b", "c d e f"], ["x"], ["y z"], [], ["w " * 30], ["v"], [" "]]
    rows = [
        {"file_name": name, "captions": texts, "id": str(i)}
        for i, (name, texts) in enumerate(zip(names, captions, strict=True))
    ]
    folder = write_folder(rows, name="mixed")
    (folder / "copy.png").write_bytes(png(0))
    (folder / "wide.png").write_bytes(png(0, (50, 20)))
    return f"folder:{folder}"


def test_every_count_is_the_one_that_was_put_there(mixed):
    summary = summarize(open_source(mixed))
    assert (summary["records"], summary["looked_at"], summary["formats"]) == (8, 8, {"PNG": 6})
    assert summary["shorter_side"] == {"least": 7, "median": 7, "95%": 16, "most": 20}
    assert summary["longer_side"]["most"] == 50
    assert summary["words"] == {"least": 1, "median": 2, "95%": 23, "most": 30} and "cut" not in summary
    assert (
        summary["captions_per_record"] == 1 and summary["without_caption"] == summary["same_picture"] == 1 / 6
    )
    assert summary["broken"] == 2 / 8 and summary["reasons"] == {
        "'gone.png' cannot be read: No such file or directory": 1,
        "caption has no visible character": 1,
    }


def test_a_record_with_an_empty_caption_beside_another_is_not_broken(write_folder):
    rows = [{"file_name": f"{i:02d}.png", "captions": ["good one", "", " "][: 1 + i]} for i in range(3)]
    rows += [{"file_name": name, "caption": "x"} for name in ("a.png", "b c.png")]
    summary = summarize(open_source(f"folder:{write_folder(rows)}"))
    assert summary["unusable_captions"] == 3 and summary["captions_per_record"] == 1
    assert summary["reasons"] == {"'a.png' cannot be read: No such file or directory": 2}


def test_captions_of_several_lines_are_counted(write_folder):
    texts = (["one line", "two\nlines"], ["a line with its end\r\n"], ["one\ntwo\nthree", "a\r\nb"])
    rows = [{"file_name": f"{i:02d}.png", "captions": some} for i, some in enumerate(texts)]
    summary = summarize(open_source(f"folder:{write_folder(rows)}"))
    assert summary["remarks"] == [
        "3 captions have several lines (the first in record 0); if each line is a caption of its own, write them as a "
        "list (docs/data.md)"
    ]


def test_what_a_source_remarks_is_printed_and_written(tmp_path):
    for name, sample in (("a.tar", "00"), ("b.tar", "01")):
        with tarfile.open(tmp_path / name, "w") as tar:
            for ending, data in (("png", png(0)), ("txt", b"a red square")):
                member = tarfile.TarInfo(f"{sample}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    joined = tmp_path / "joined.tar"
    joined.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    done = CliRunner().invoke(main, [f"wds:{joined}", "--json", str(tmp_path / "s.json")])
    assert done.exit_code == 0, done.output
    remark, _ = json.loads((tmp_path / "s.json").read_text())["remarks"]
    size = (tmp_path / "a.tar").stat().st_size
    assert remark.endswith(f"1, the first is that at byte {size} of joined.tar.") and remark in done.output


def test_tokens_are_counted_as_training_counts_them(mixed, tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path / "t")
    arguments = [
        mixed,
        "--tokenizer",
        str(tmp_path / "t"),
        "--text-length",
        "5",
        "--json",
        str(tmp_path / "j"),
    ]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    summary = json.loads((tmp_path / "j").read_text())
    assert summary["tokens"]["least"] == 3 and summary["tokens"]["most"] == 32  # With [CLS] and [SEP].
    assert summary["cut"] == 2 / 6 and "33.33%" in done.output and "gone.png" in done.output


def test_a_sample_is_drawn_where_there_are_more(folder):
    source = open_source(str(folder))
    summary = summarize(source, limit=7)
    assert (summary["records"], summary["looked_at"], summary["labelled"], summary["classes"]) == (
        RECORDS,
        7,
        1,
        3,
    )
    assert summarize(source, limit=None)["looked_at"] == RECORDS
    with pytest.raises(ConfigError, match="limit is 0"):
        summarize(source, limit=0)


def test_a_source_of_broken_records_is_refused(write_folder):
    source = open_source(str(write_folder([{"file_name": "gone.png"}])))
    with pytest.raises(DataError, match=r"every one of 1 records is broken: 'gone\.png' cannot be read"):
        summarize(source)


def test_the_sheet_shows_sixteen_pairs_and_leaves_the_broken_out(mixed, folder, tmp_path):
    summarize(open_source(mixed), sheet=tmp_path / "few.png")
    few = Image.open(tmp_path / "few.png")
    source = open_source(str(folder))
    summarize(source, sheet=tmp_path / "many.png")
    many = Image.open(tmp_path / "many.png")
    assert few.mode == "RGB" and few.width == many.width and few.height < many.height
    red = contact_sheet(open_source(mixed), [0])
    assert not np.array_equal(np.asarray(red), np.asarray(contact_sheet(open_source(mixed), [1])))


def test_a_long_caption_and_an_odd_picture_stay_in_their_places(write_folder):
    folder = write_folder(
        [{"file_name": "hair.png", "caption": "long" * 400 + " word" * 5000, "id": "i" * 900}]
    )
    (folder / "hair.png").write_bytes(png(0, (3000, 1)))
    page = contact_sheet(open_source(str(folder)), [0])
    right = np.asarray(page)[:, 40 + 300 + 2 :][120:]  # Beside the only column.
    assert (right == right[0, 0]).all()
