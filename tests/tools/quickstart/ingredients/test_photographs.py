"""Stamps of a Debian package become pairs: photographs alone, on white, with captions in their languages."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.sources.registry import open_source
from lit_jax.tools.quickstart.ingredients import photographs
from lit_jax.utils.errors import ConfigError, DataError

NAMES = ["food/fruit/apple", *(f"animals/birds/b{i}" for i in range(9))]


def png(colour):
    file = io.BytesIO()
    picture = Image.new("RGBA", (700, 300), colour)
    picture.paste((0, 0, 0, 0), (0, 0, 10, 10))
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as dpkg-deb reads it, in the place of the one that apt-get downloads."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("there is no dpkg-deb")
    root = tmp_path / "root"
    stamps = root / photographs._STAMPS
    for number, name in enumerate([*NAMES, "food/cartoon/pear", "symbols/a", "food/fruit/mute"]):
        file = stamps / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png((200, 20 * (number % 12), 30, 255)))
        if "mute" not in name:
            text = f"A thing {number}.\nde.utf8=Ein Ding {number}.\nfr.utf8=\nodd line\n"
            file.with_suffix(".txt").write_text(text)
    (root / "DEBIAN").mkdir()
    control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    (root / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "x.deb"], check=True, capture_output=True)
    monkeypatch.setattr(photographs, "download", lambda folder: tmp_path / "x.deb")
    return tmp_path / "x.deb"


def test_photographs_with_captions_are_two_sources_of_pairs(package, tmp_path):
    out = photographs.photograph_pairs(tmp_path / "out")
    train, test = (open_source(f"folder:{out / part}") for part in ("train", "test"))
    assert len(train) == 8 and len(test) == 2
    records = [source[i] for source in (train, test) for i in range(len(source))]
    assert {record["id"] for record in records} == set(NAMES)
    assert all(len(r["captions"]) == 1 and r["captions"][0].startswith("A thing") for r in records)
    picture = np.asarray(Image.open(io.BytesIO(records[0]["image"])))
    assert picture.shape[1] == photographs.SIDE and (picture[0, 0] == 255).all() and picture[-1, -1, 0] == 200
    german = open_source(f"folder:{out / 'test'}", caption="captions_de")
    assert german[0]["captions"][0].startswith("Ein Ding")
    assert photographs.photograph_pairs(out) == out
    with pytest.raises(ConfigError, match="made in another way"):
        photographs.photograph_pairs(out, every_language=True)


def test_with_every_language_training_has_all_captions_and_the_test_has_english(package, tmp_path):
    out = photographs.photograph_pairs(tmp_path / "out", every_language=True)
    rows = {
        part: [json.loads(line) for line in (out / part / "metadata.jsonl").read_text().splitlines()]
        for part in ("train", "test")
    }
    assert all([text[0] for text in row["captions"]] == ["A", "E"] for row in rows["train"])
    assert all(len(row["captions"]) == 1 for row in rows["test"])


def test_a_damaged_package_and_a_machine_without_apt_are_told(package, tmp_path, monkeypatch):
    package.write_bytes(package.read_bytes()[:900])
    with pytest.raises(DataError, match=r"is damaged|has no photographs"):
        photographs.photograph_pairs(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="no apt-get; use Debian or Ubuntu, or --pictures emoji"):
        photographs.download(tmp_path)


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 100, "", "W: x\nE: Unable to locate package y\n")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ConfigError, match=r"\(E: Unable to locate package y\); run `apt-get update`"):
        photographs.download(tmp_path)


def test_a_text_of_one_line_is_english_alone():
    assert photographs.parsed(b"A frog.") == {"": "A frog."} and photographs.parsed(b"") == {"": ""}
