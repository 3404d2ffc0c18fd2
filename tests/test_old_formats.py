"""What an older lit_jax left on disk is still read: tests/fixtures/make_old_formats.py says how it was written."""

import json
import logging
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import lit_jax
from lit_jax.__main__ import main

OLD = Path(__file__).parent / "fixtures" / "old_formats"
EXPECTED = json.loads((OLD / "expected.json").read_text())
STOPPED = EXPECTED["stopped"]


def command(*args):
    """Runs a command in this process; it must succeed and leave the process as it was."""
    levels = {name: logging.getLogger(name).level for name in ("lit_jax", "absl")}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        main([str(arg) for arg in args])
    except SystemExit as ended:
        assert ended.code == 0
    finally:
        assert signal.getsignal(signal.SIGTERM) is handler
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_in(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def compare(model, expected):
    """Compares the embeddings of the old pictures and texts now with those of then."""
    model = lit_jax.Embedder(model)
    pictures = model.pictures(sorted((OLD / "pictures").iterdir()))
    np.testing.assert_allclose(pictures, expected["pictures"], atol=1e-5)
    np.testing.assert_allclose(model.texts(EXPECTED["texts"]), expected["texts"], atol=1e-5)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of all old files, with their times, as the current folder."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The old workdir after its remaining steps, and its cache files and metrics rows from before."""
    folder = tmp_path_factory.mktemp("resumed") / "old"
    shutil.copytree(OLD, folder)
    workdir = folder / "workdir"
    before = files_in(workdir / "cache"), rows_of(workdir / "metrics.jsonl")
    command("train", "--config", folder / "config.py", "--workdir", workdir, "--no-fallback")
    return workdir, *before


def test_an_old_workdir_resumes_where_it_stopped_and_ends_with_the_same_losses(resumed):
    workdir, _, before = resumed
    sessions, rows = rows_of(workdir / "sessions.jsonl"), rows_of(workdir / "metrics.jsonl")
    assert [session["step"] for session in sessions] == [0, STOPPED]
    assert rows[: len(before)] == before and before[-1]["step"] == STOPPED
    losses = {str(row["step"]): row["loss"] for row in rows if "loss" in row}
    assert losses.keys() == EXPECTED["losses"].keys() and len(losses) > STOPPED
    assert {path.name for path in (workdir / "ranks").iterdir()} == {
        f"step_{step}.npz" for step in (0, 2, 4, 6)
    }
    for step, loss in losses.items():
        assert loss == pytest.approx(EXPECTED["losses"][step], rel=1e-5)


def test_an_old_cache_is_found_again_and_not_changed(resumed):
    workdir, before, _ = resumed
    assert files_in(workdir / "cache") == before
    assert sorted(path.name for path in before) == EXPECTED["cache"]


def test_the_export_of_a_resumed_old_run_is_that_of_the_old_version(resumed, tmp_path):
    command("export", "--workdir", resumed[0], "--output", tmp_path / "out")
    compare(tmp_path / "out", EXPECTED["export"])


def test_an_old_workdir_is_exported_as_it_is(place):
    command("export", "--workdir", "workdir", "--output", "out")
    compare("out", EXPECTED["export of the stopped run"])


def test_doctor_calls_old_checkpoints_whole(place, capsys):
    command("doctor", "--workdir", "workdir", "--json")
    found = json.loads(capsys.readouterr().out)["workdir"]
    assert found["resumes"] == STOPPED and found["problems"] == found["strays"] == []
    assert found["checkpoints"] == [{"step": 2, "damage": None}, {"step": STOPPED, "damage": None}]


def test_a_page_is_made_of_an_old_workdir(place):
    command("report", "--workdir", "workdir", "--output", "report.html")
    assert f"{STOPPED} of 6" in (place / "report.html").read_text()


def test_an_old_export_gives_the_old_embeddings(place):
    compare("export", EXPECTED["export"])


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_a_search_in_an_old_index_gives_the_old_hits(place, kind):
    queries = {"text": {"query": EXPECTED["texts"][0]}, "picture": {"picture": "pictures/0.png"}}
    hits = lit_jax.search("index", **queries[kind], top=4)  # With the model that the index names.
    wanted = EXPECTED["search"][kind]
    assert [(hit.id, hit.number) for hit in hits] == [(name, number) for name, _, number in wanted]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score, _ in wanted], atol=1e-5)


def test_an_old_index_counts_as_complete_and_is_not_written_again(place):
    before = files_in(place / "index")
    command("embed", "shapes:10/test", "--model", "export", "--output", "index", "--shard-size", 4)
    assert files_in(place / "index") == before
