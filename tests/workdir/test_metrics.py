import json
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.workdir.metrics import Jsonl, TensorBoard, Writer, Writers, read_rows
from lit_jax.workdir.terminal import Terminal
from tests.workdir.test_terminal import Pipe


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_call_is_one_row_that_survives_a_kill(tmp_path):
    path = tmp_path / "logs" / "metrics.jsonl"
    jsonl = Jsonl(path)
    jsonl.scalars(1, {"loss": jnp.float32(0.5), "n": 3})
    assert rows(path) == [{"step": 1, "loss": 0.5, "n": 3.0}]  # Before close.
    jsonl.scalars(2, {"loss": np.nan, "lr": -np.inf})
    jsonl.close()
    assert path.read_text().splitlines()[1] == '{"step": 2, "loss": null, "lr": null}'


def test_no_step_is_there_twice_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"

    def run(steps, start):
        jsonl = Jsonl(path, start_step=start)
        for step in steps:
            jsonl.scalars(step, {"loss": 1 / step})
            if step % 4 == 0:
                jsonl.scalars(step, {"recall@5": step})
        jsonl.close()

    run(range(1, 13), start=0)
    whole = path.read_text()
    with path.open("a") as file:
        file.write('{"step": 13, "lo')  # Killed while writing.
    run(range(9, 13), start=8)
    assert path.read_text() == whole
    run(range(8, 13), start=8)  # A run that logs its start step again.
    assert path.read_text() == whole
    run(range(1, 13), start=0)
    assert path.read_text() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_row_of_the_start_step_may_still_be_added(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = Jsonl(path)
    first.scalars(8, {"loss": 1.0})
    first.close()
    second = Jsonl(path, start_step=8)  # Killed between the step and its evaluation.
    second.scalars(8, {"loss": 1.0, "recall@5": 0.5})
    second.close()
    assert rows(path) == [{"step": 8, "loss": 1.0}, {"step": 8, "recall@5": 0.5}]


@pytest.mark.parametrize("line", ["not json", '{"loss": 1.0}', "[1]", '{"step": null}'])
def test_a_file_with_something_else_is_refused_and_left_alone(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 9}}\n')
    before = path.read_text()
    with pytest.raises(DataError, match=r"line 2 of metrics.jsonl is not a metrics row"):
        Jsonl(path, start_step=5)
    assert path.read_text() == before


def events(folder):
    """(step, {tag: value}, whether it is a restart) of each event in the TFRecord files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        # Stops at an event that is half written.
        while len(data) >= 8 and len(data) >= 16 + struct.unpack("<Q", data[:8])[0]:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            values = {value.tag: value.simple_value for value in event.summary.value}
            yield event.step, values, event.HasField("session_log")
            data = data[16 + length :]


def test_tensorboard_files_hold_each_value_soon(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    board = TensorBoard(tmp_path)
    board.scalars(3, {"loss": jnp.float32(0.5), "pairs/s": 7})
    until = time.monotonic() + 20
    while (3, {"pairs/s": 7.0}, False) not in list(events(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    written = list(events(tmp_path))  # Before close.
    board.close()
    assert (3, {"loss": 0.5}, False) in written
    assert (3, {"pairs/s": 7.0}, False) in written


def test_tensorboard_hides_what_came_after_the_step_of_a_resume(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    for start in (0, 8):  # Both within one second.
        board = TensorBoard(tmp_path, start_step=start)
        board.scalars(start + 3, {"loss": 0.5})
        board.close()
    written = list(events(tmp_path))
    assert [step for step, _, restart in written if restart] == [1, 9]
    assert [step for step, values, _ in written if values] == [3, 11]


def test_tensorboard_is_imported_only_when_used(monkeypatch, tmp_path):
    code = "import sys, lit_jax.workdir.metrics; sys.exit('tensorboardX' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(lit_jax.__file__).parents[1])
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        TensorBoard(tmp_path)


def test_a_writer_that_fails_does_not_affect_the_others(tmp_path):
    class Full:
        def scalars(self, step, values):
            raise OSError("disk full")

        def close(self):
            raise OSError("still full")

    assert isinstance(Full(), Writer)
    stream, path = Pipe(tty=False), tmp_path / "metrics.jsonl"
    jsonl = Jsonl(path)
    writers = Writers(Terminal(9, stream=stream), Full(), jsonl)
    with pytest.raises(OSError, match="disk full"):
        writers.scalars(1, {"loss": 1.0})
    with pytest.raises(OSError, match="still full"):
        writers.close()
    assert stream.getvalue() == "step 1/9  loss 1\n"
    assert rows(path) == [{"step": 1, "loss": 1.0}]
    with pytest.raises(ValueError, match="closed"):
        jsonl.scalars(2, {"loss": 1.0})


@pytest.mark.parametrize(
    "line", [b'{"step": 2, "lo\xe9s": 1}', b"[" * 10_000, b'{"step": ' + b"9" * 5000 + b"}", b""]
)
def test_a_damaged_line_is_refused_in_one_sentence(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"line 2 of metrics.jsonl is not a metrics row") as error:
        Jsonl(path, start_step=5)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_complete_row_without_its_line_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}')
    Jsonl(path, start_step=2).close()
    assert rows(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


def test_a_folder_in_place_of_the_rows_is_set_aside(tmp_path, caplog):
    (tmp_path / "metrics.jsonl" / "inside").mkdir(parents=True)
    jsonl = Jsonl(tmp_path / "metrics.jsonl", start_step=2)
    jsonl.scalars(3, {"loss": 1.0})
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 1.0}]
    assert (tmp_path / "metrics.jsonl.damaged" / "inside").is_dir()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/metrics.jsonl is a folder; it is now metrics.jsonl.damaged"
    ]


def test_rows_that_are_removed_during_a_run_are_begun_anew(tmp_path, caplog):
    jsonl = Jsonl(tmp_path / "run" / "metrics.jsonl")
    jsonl.scalars(1, {"loss": 1.0})
    shutil.rmtree(tmp_path / "run")
    jsonl.scalars(2, {"loss": 0.5})
    jsonl.scalars(3, {"loss": 0.25})
    assert rows(tmp_path / "run" / "metrics.jsonl") == [{"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]
    assert len(caplog.records) == 1 and "begun anew with step 2" in caplog.text


def test_rows_are_read_without_what_is_not_a_finite_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = '"a": "text", "b": 1e999, "c": NaN, "d": [1], "e": true, "f": 2, "g": null, "h": 1' + "0" * 400
    lines = [
        '{"step": 1, ' + values + "}",
        '{"step": "2"}',
        '{"step": -1}',
        "[" * 10_000,
        '{"step": 3, "f": 1.5}',
        "\xe9",
    ]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    first = dict.fromkeys("abcdegh") | {"step": 1, "f": 2}
    assert read_rows(path) == [first, {"step": 3, "f": 1.5}]
    assert read_rows(tmp_path) == read_rows(tmp_path / "none") == []


def test_tensorboard_files_are_still_written_after_the_clock_is_set_back(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    board, now = TensorBoard(tmp_path), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 40 * 86_400)
    threads = threading.active_count()
    for step in range(1, 40):  # More than a queue would hold.
        board.scalars(step, {"loss": 1 / step})
        assert [at for at, values, _ in events(tmp_path) if values] == list(range(1, step + 1))
    assert threading.active_count() == threads
    board.close()
