"""Every JSON file is read strictly: anything else in its place ends in one sentence with its name."""

import ast
import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lit_jax
from lit_jax.data.bad_records import Ledger
from lit_jax.evals import compare, names
from lit_jax.evals.retrieval import Retrieved
from lit_jax.inference.prompts import load_templates
from lit_jax.tools import doctor
from lit_jax.tools.report import charts, numbers
from lit_jax.tools.report.charts import Line, chart
from lit_jax.train.model_description import _fresh
from lit_jax.utils import checksums
from lit_jax.utils.errors import LitJaxError
from lit_jax.workdir.files import read_run_config
from lit_jax.workdir.metrics import Jsonl, read_rows
from lit_jax.workdir.sessions import note_session
from tests import tiny

PACKAGE = Path(lit_jax.__file__).parent
MANY = int(os.environ.get("FUZZ", "300"))  # Inputs for each reader.
OTHERS = {  # The files that parse JSON by themselves, and why.
    "utils/strict_json.py": "it is the strict reader",
    "config/values.py": "a text of the command line, of which what is no JSON is a text",
    "data/sources/folder_json.py": "a line of a table, where a key twice is no damage, and the errors name the line",
    "data/sources/tfds_folder.py": "it has to see both values of a key twice, and has looked at the size before",
    "hf/processor.py": "transformers has just written it",
    "inference/index.py": "an index",
    "tools/blend.py": "a tokenizer has just written it",
    "inference/left_out.py": "a part of an index",
}


def test_no_file_is_parsed_as_json_elsewhere():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or ast.unparse(node) not in ("json.loads", "json.load"):
                continue
            line = path.read_text().splitlines()[node.lineno - 1]
            if "json.loads(json.dumps(" not in line:  # That only copies what is in memory.
                found.add(str(path.relative_to(PACKAGE)))
    assert found <= OTHERS.keys() and len(found) >= len(OTHERS) - 2


def result(path):
    return compare.read(path)


def metrics_of(path):
    Jsonl(path, start_step=1).close()


# A file, what reads it, and the exit statuses allowed. A report and a ledger skip lines that are not valid.
READERS = {
    "config.json": (lambda path: read_run_config(path.parent), {4}),
    "fresh.json": (_fresh, {4}),
    "result.json": (result, {3}),
    "metrics.jsonl": (metrics_of, {3}),
    "rows.jsonl": (read_rows, {3}),
    "ledger.jsonl": (lambda path: Ledger("s", 9, 1.0, path, rows=9), {3}),
    "names.json": (lambda path: names.from_file(str(path), ["a", "b"]), {2}),
    "names.txt": (lambda path: names.from_file(str(path), ["a", "b"]), {2}),
    "templates.json": (load_templates, {2}),
    "templates.txt": (load_templates, {2}),
    "step_1.npz": (Retrieved.load, {3}),
}
DAMAGED = {
    "deep": b"[" * 10_000,
    "deep objects": b'{"a":' * 10_000,
    "a long number": b'{"step": ' + b"1" * 5_000 + b"}\n",
    "high bits": b'{"a": "\xff\xfe"}\n',
    "NaN": b'{"step": NaN}\n',
    "a key twice": b'{"step": 1, "step": 2}\n',
    "a list": b"[1]\n",
    "a number": b"3\n",
    "half of it": b'{"step": 1',
    "nothing": b"",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("what", [*DAMAGED, "a folder", "a pipe", "a file of holes", "a device"])
def test_whatever_is_in_the_place_of_a_file_is_read_or_refused_in_one_sentence(name, what, tmp_path):
    path, (read, statuses) = tmp_path / name, READERS[name]
    if what in DAMAGED:
        path.write_bytes(DAMAGED[what])
    elif what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(10 << 30)
    try:
        read(path)
    except LitJaxError as error:
        assert error.exit_code in statuses and name.partition(".")[0] in str(error)
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        assert name.endswith((".jsonl", ".txt")) or name == "names.json"


def test_a_pipe_in_the_place_of_a_growing_file_is_set_aside(tmp_path, caplog):
    for name, write in (
        ("metrics.jsonl", metrics_of),
        ("sessions.jsonl", lambda path: note_session(path, 1)),
    ):
        os.mkfifo(tmp_path / name)
        with caplog.at_level(logging.WARNING):
            write(tmp_path / name)
        assert (
            tmp_path / name
        ).is_file() and f"{name} is no regular file; it is now {name}.damaged" in caplog.text


def test_a_pipe_among_the_files_of_a_checkpoint_is_damage(tmp_path):
    (tmp_path / "a").write_text("x")
    checksums.write(tmp_path)
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    assert checksums.damage(tmp_path) == "a cannot be read: it is not a regular file"
    (tmp_path / checksums.NAME).unlink()
    os.mkfifo(tmp_path / checksums.NAME)
    assert checksums.damage(tmp_path) == "SHA256SUMS cannot be read: it is not a regular file"


def test_doctor_says_what_is_wrong_with_the_config_of_a_stranger(tmp_path):
    for content in (b"[" * 10_000, b'{"steps": -1}', b"\xff"):
        (tmp_path / "config.json").write_bytes(content)
        (problem,) = doctor.workdir(tmp_path)["problems"]
        assert "config.json" in problem and "\n" not in problem


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0.0, -5.0, 1e-310, 2.0**62])
def test_a_page_draws_any_number_that_metrics_may_hold(value):
    for points in ([(1.0, value)], [(1.0, value), (2.0, 1.0)], [(1.0, value), (2.0, value * 0.5)]):
        for zero in (False, True):
            chart("", [Line("", points)], zero=zero)
    row = {"step": 2**53 - 1, "loss": value, "pairs/s": value, "skipped": value}
    assert len(numbers.charts([row], {})) >= (abs(value) <= charts.LARGEST)
    numbers.cost([row], 8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
fuzzed = settings(
    max_examples=MANY,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)


def read_in_one_sentence(path, content):
    path.write_bytes(content)
    read, statuses = READERS[path.name]
    try:
        read(path)
    except LitJaxError as error:
        assert error.exit_code in statuses and "\n" not in str(error)


@fuzzed
@given(data=st.data())
def test_a_config_of_a_workdir_with_any_values_is_read_or_refused(place, data):
    config = json.loads(json.dumps(tiny.config(place / "towers")))
    for _ in range(data.draw(st.integers(1, 3))):
        groups = [group for group in (config, *config.values()) if isinstance(group, dict) and group]
        group = data.draw(st.sampled_from(groups))
        group[data.draw(st.sampled_from(sorted(group)))] = data.draw(trees)
    read_in_one_sentence(place / "config.json", json.dumps(config).encode())


@fuzzed
@given(
    content=st.binary(max_size=60) | trees.map(lambda tree: json.dumps(tree).encode() + b"\n"), data=st.data()
)
def test_any_content_is_read_or_refused(place, content, data):
    name = data.draw(st.sampled_from([name for name in READERS if not name.startswith("config")]))
    read_in_one_sentence(place / name, content)
