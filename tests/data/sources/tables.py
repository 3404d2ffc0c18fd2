"""Tables made to hurt, as hypothesis strategies, and what must hold for each of them."""

import csv
import io
import json

from hypothesis import strategies as st

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png

NAMES = ("metadata.jsonl", "metadata.csv", "captions.csv", "captions.tsv", "captions.txt", "results.csv")
PICTURES = ("a.png", "b.png", "sub/c.png", "d e.png")
HEADS = {name: ("file_name", "caption") for name in NAMES} | {
    "captions.txt": ("image", "caption"),
    "results.csv": ("image_name", "comment_number", "comment"),
}
odd = st.sampled_from(
    [*"\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x85\0\ufeff\t ,|\"'\\é猫²½", "\r", "\n", "\r\n", '"a', '""']
)
captions = st.lists(odd | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4).map(
    "".join
)
plain = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters='\r\n\t,|"'), min_size=1, max_size=8
)
rows = st.lists(st.tuples(st.sampled_from(PICTURES), captions), min_size=1, max_size=8)
snippets = (
    st.binary(max_size=3)
    | odd.map(str.encode)
    | st.sampled_from([b"\xff", b'"', b"\n", b"{", b"}", b",", b"[" * 9999])
)
keys = st.sampled_from(
    ["file_name", "caption", "captions", "text", "title", "label", "id", "captoin", "width"]
)
labels = st.sampled_from(["²", "٣", "7", "-1", "1.0", "9" * 5000, "cat", "1e3", "", "+1", "\uff10"])


def write_pictures(folder):
    """The pictures that the tables name, and nothing else."""
    for i, name in enumerate(PICTURES):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(png(i))


def written(name, pairs, end="\r\n"):
    """The bytes of the table `name` with these (file, caption), as Python's csv and json write it."""
    if name.endswith(".jsonl"):
        lines = [
            json.dumps({"file_name": file, "caption": caption}, ensure_ascii=False) for file, caption in pairs
        ]
        return "".join(line + end for line in lines).encode()
    out = io.StringIO(newline="")
    # csv puts only its own line end between quotes.
    quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    cut = "\t" if name.endswith(".tsv") else ","
    writer = csv.writer(out, delimiter=cut, lineterminator=end, quoting=quoting)
    writer.writerows([HEADS[name], *pairs])
    return out.getvalue().encode()


def opened(folder, name, content, **options):
    """The source of a folder whose only table has these bytes."""
    for other in NAMES:
        (folder / other).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return open_source(f"folder:{folder}", **options)


def read_all(source):
    """The records, and the number of those that are broken."""
    records, broken = [], 0
    for i in range(len(source)):
        try:
            records.append(source[i])
        except DataError as error:
            assert "\n" not in str(error)
            broken += 1
    return records, broken


def check_exact(folder, name, pairs, end):
    """What Python's csv or json has written is read, all of it: each caption with its picture, in its order."""
    source = opened(folder, name, written(name, pairs, end))
    records, broken = read_all(source)
    together = [file for i, (file, _) in enumerate(pairs) if not i or pairs[i - 1][0] != file]
    order = dict.fromkeys(together if len(together) == len(set(together)) else sorted(together))
    want = [(file, [text for other, text in pairs if other == file]) for file in order]
    assert not broken and [(record["id"], record["captions"]) for record in records] == want


def check_any(folder, name, content, caption=None):
    """Any bytes are read, or refused in one sentence that names the table or the folder."""
    try:
        source = opened(folder, name, content, caption=caption)
    except DataError as error:
        assert "\n" not in str(error) and str(error).startswith(f"folder:{folder}")
        return
    records, _ = read_all(source)
    assert len({record["id"] for record in records}) == len(records)
    assert all(0 <= record.get("label", 0) < 2**31 for record in records)
    assert all(remark == remark.strip() and "\n" not in remark for remark in source.remarks)


def check_changed(folder, name, pairs, places, snippet):
    """A table of plain rows into which bytes were put: no row is lost without an error, a remark or a broken record."""
    content = written(name, pairs, "\n")
    for place in places:
        at = content.index(b"\n") + 1 if name != "metadata.jsonl" else 0  # The names of the columns stay.
        at += place % (len(content) - at + 1)
        content = content[:at] + snippet + content[at:]
    try:
        source = opened(folder, name, content)
    except DataError as error:
        assert "\n" not in str(error)
        return
    records, broken = read_all(source)
    if not broken and not source.remarks:
        lines = [line for line in content.replace(b"\r", b"\n").split(b"\n") if line.strip(b" \t\x0b\x0c")]
        assert sum(len(record["captions"]) for record in records) == len(lines) - (name != "metadata.jsonl")


@st.composite
def json_lines(draw):
    """Objects of keys that are read, misspelt or unknown, with values of any kind."""
    value = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | captions
        | labels
        | st.lists(captions, max_size=2)
    )
    lines = draw(st.lists(st.dictionaries(keys, value, max_size=4), max_size=4))
    for line in lines:
        if draw(st.integers(0, 5)):
            line["file_name"] = draw(st.sampled_from(PICTURES))
    return "\n".join(map(json.dumps, lines)).encode()


@st.composite
def labelled(draw):
    """A CSV with labels and ids of any kind."""
    out = io.StringIO(newline="")
    cells = st.tuples(st.sampled_from(PICTURES), captions, labels | captions, labels)
    csv.writer(out).writerows([("file_name", "caption", "label", "id"), *draw(st.lists(cells, max_size=5))])
    return out.getvalue().encode()


plain_rows = st.lists(st.tuples(st.sampled_from(PICTURES), plain), min_size=1, max_size=6)
