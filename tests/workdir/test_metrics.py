import io
import json
import os
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.workdir.metrics import Jsonl, TensorBoard, Terminal, Writer, Writers


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Pipe(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, tty):
        super().__init__()
        self.isatty = lambda: tty


VALUES = {"loss": 3.21, "lr": 5e-5, "pairs/s": 12345.6, "grad_norm": jnp.float32(0.5)}


def test_a_log_gets_one_plain_line_for_each_call():
    stream = Pipe(tty=False)
    terminal = Terminal(160, stream=stream)
    terminal.scalars(20, VALUES)
    terminal.scalars(40, {"recall@5": np.float64(1 / 3)})
    terminal.close()
    assert stream.getvalue() == (
        "step 20/160  loss 3.21  lr 5e-05  pairs/s 12346  grad_norm 0.5\nstep 40/160  recall@5 0.3333\n"
    )


def test_times_and_shares_of_a_step_are_short_numbers():
    stream = Pipe(tty=False)
    times = {"host_ms": 1.23456, "device_ms": 1234.5, "host_share": 0.0010004, "data_wait": 0.0}
    Terminal(160, stream=stream).scalars(20, times)
    assert stream.getvalue() == "step 20/160  host_ms 1.23  device_ms 1234  host_share 0.001  data_wait 0\n"


def test_a_terminal_gets_the_same_lines_above_a_bar():
    stream = Pipe(tty=True)
    terminal = Terminal(160, start_step=10, stream=stream)
    terminal.scalars(20, VALUES)
    terminal.scalars(40, {"recall@5": 0.25})
    terminal.close()
    text = stream.getvalue()
    assert "\rstep 20/160  loss 3.21  lr 5e-05  pairs/s 12346  grad_norm 0.5\n" in text
    assert "step 40/160  recall@5 0.25\n" in text
    frames = [frame for frame in text.split("\r") if "%|" in frame]
    assert " 10/160 " in frames[0]
    assert " 40/160 " in frames[-1]
    assert (
        "loss 3.21  lr 5e-05  pairs/s 12346]" in frames[-1]
    )  # Kept, since the evaluation has none of its own.
    assert "grad_norm" not in frames[-1]


def test_what_others_print_beside_the_bar_stays():
    """A terminal is played: only a carriage return goes back, and what it rewrites is the bar's own line."""
    stream = Pipe(tty=True)
    terminal = Terminal(160, stream=stream)
    terminal.scalars(20, {"loss": 1.0})
    stream.write("\nwarning: picture 7 is broken\n")
    terminal.scalars(40, {"loss": 0.5})
    terminal.close()
    text = stream.getvalue()
    assert "\x1b[A" not in text  # Never up.
    screen = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        screen.append(shown.rstrip())
    for want in ("step 20/160  loss 1", "warning: picture 7 is broken", "step 40/160  loss 0.5"):
        assert want in screen


def test_the_bar_is_drawn_on_a_real_terminal():
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    code = (
        "from lit_jax.workdir.metrics import Terminal; t = Terminal(8);"
        "[t.scalars(i, {'loss': 1 / i}) for i in (4, 8)]; t.close()"
    )
    root = Path(lit_jax.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, cwd=root)
    text = os.read(ours, 10_000).decode()
    os.close(ours), os.close(theirs)
    assert "step 4/8  loss 0.25" in text
    assert re.search(r"100%\|.*\| 8/8 \[.*loss 0.125\]", text)


def test_each_call_is_one_row_that_survives_a_kill(tmp_path):
    path = tmp_path / "logs" / "metrics.jsonl"
    jsonl = Jsonl(path)
    jsonl.scalars(1, {"loss": jnp.float32(0.5), "n": 3})
    assert rows(path) == [{"step": 1, "loss": 0.5, "n": 3.0}]  # Before close.
    jsonl.scalars(2, {"loss": np.nan, "lr": -np.inf})
    jsonl.close()
    assert path.read_text().splitlines()[1] == '{"step": 2, "loss": null, "lr": null}'


def test_no_step_stands_twice_after_a_resume(tmp_path):
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
    run(range(8, 13), start=8)  # A run that logs the step it starts from once more.
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
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 9}}\n')
    before = path.read_text()
    with pytest.raises(DataError, match=r"line 2 of metrics.jsonl is not a metrics row"):
        Jsonl(path, start_step=5)
    assert path.read_text() == before


def events(folder):
    """(step, {tag: value}, is a restart) of each event, out of the TFRecord files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while len(data) >= 8 and len(data) >= 16 + struct.unpack("<Q", data[:8])[0]:  # Not one half written.
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


def test_tensorboard_hides_what_came_after_the_resumed_step(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    for start in (0, 8):  # Within one second.
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


def test_a_writer_that_fails_keeps_nothing_from_the_others(tmp_path):
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
