"""The benchmarks run at tiny sizes; their figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

FOLDER = Path(__file__).parent.parent / "benchmarks"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, FOLDER / script, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),  # One device, as on a real machine, not eight virtual ones.
    ).stdout


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("train_step.py", "--rounds"),
        ("forward.py", "--rounds"),
        ("plans.py", "--only"),
        ("overhead.py", "--repeats"),
    ],
)
def test_the_help_of_a_benchmark_lists_its_options(script, option):
    assert option in run(script, "--help")


@pytest.mark.slow
def test_a_tiny_embedding_benchmark_reports_how_many_cores_were_busy(tmp_path):
    printed = run("embed.py", "--tiny", "--pictures=20", "--batch=8", f"--json={tmp_path / 'found'}")
    found = json.loads((tmp_path / "found").read_text())
    assert "20 pictures: " in printed and f"{found['cores']:.2f} of " in printed
    assert 0 < found["start_seconds"] < found["seconds"] and found["cores"] > 0
    assert found["start_share"] == found["start_seconds"] / found["seconds"]


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize(
    ("script", "kinds"),
    [("train_step.py", ["locked", "unlocked", "cached"]), ("forward.py", ["image", "text"])],
)
def test_a_tiny_benchmark_gives_a_row_for_each_comparison(script, kinds, tmp_path):
    printed = run(script, "--tiny", "--batch=2", "--length=4", "--rounds=1", f"--json={tmp_path / 'found'}")
    found = json.loads((tmp_path / "found").read_text())["results"]
    assert list(found) == kinds and all(kind in printed for kind in kinds)
    assert all(
        row["first_s"] > 0 and row["ratio"] == row["first_s"] / row["second_s"] for row in found.values()
    )


@pytest.mark.slow
def test_a_tiny_benchmark_of_an_accelerator_gives_a_row_for_each_case(tmp_path):
    asked = (
        "--only=lit_jax",
        "--tiny",
        "--batch=8",
        "--length=8",
        "--rounds=1",
        "--kind=cached",
        "--kind=image",
    )
    printed = run("accelerator.py", *asked, f"--json={tmp_path / 'found'}")
    found = json.loads((tmp_path / "found").read_text())["results"]
    assert [row["kind"] for row in found] == ["cached", "image"] and "pairs/s" in printed
    assert all(row["flops"] > 0 and row["runs"][0]["seconds"] > 0 for row in found)


@pytest.mark.slow
def test_the_cost_of_checking_files_has_a_row_for_a_resume_and_for_a_cache():
    rows = [line.split() for line in run("verification.py", "--tiny").splitlines()[2:]]
    assert [row[0] for row in rows] == ["resume", "cache"]
    assert all(0 < float(row[2]) < float(row[1]) for row in rows)


@pytest.mark.slow
def test_a_small_search_finds_every_neighbour_and_reads_few_vectors(tmp_path):
    sizes = ["--vectors=70000", "--width=32", "--clusters=50", "--precision=int8", "--precision=binary"]
    printed = run("search.py", *sizes, f"--json={tmp_path / 'found'}")
    found = json.loads((tmp_path / "found").read_text())
    assert "70,000 vectors of 32" in printed and found["float32"]["recall"] == 1
    assert 10 <= found["float32"]["candidates"] < 7_000 and found["float32"]["seconds"] > 0
    assert found["int8"]["stored"] < 0.27 * found["float32"]["stored"] > 8 * found["binary"]["signs"]
    assert 0 < found["binary"]["recall"] <= 1 and found["binary"]["candidates"] == 1000
