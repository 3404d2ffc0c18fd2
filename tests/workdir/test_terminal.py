"""What a run shows on a terminal and in a log."""

import io
import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import lit_jax
from lit_jax.utils.names import DIRECTIONS
from lit_jax.workdir.terminal import Terminal, duration


class Pipe(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, tty):
        super().__init__()
        self.isatty = lambda: tty


VALUES = {"loss": 3.21, "lr": 5e-5, "pairs/s": 12345.6, "grad_norm": jnp.float32(0.5)}


def test_a_log_gets_aligned_lines_with_the_time_left():
    stream, times = Pipe(tty=False), iter([100.0, 130.0, 190.0])
    terminal = Terminal(160, stream=stream, clock=lambda: next(times))
    terminal.scalars(20, VALUES)
    terminal.scalars(40, VALUES | {"loss": 12.5, "lr": 0.000123456})
    terminal.scalars(40, {"test/top1": np.float64(1 / 3)})
    terminal.scalars(160, VALUES)
    terminal.close()
    assert stream.getvalue().splitlines() == [
        "step  20/160  loss 3.21    lr 5e-05     grad_norm 0.5   pairs/s 12346",
        "step  40/160  loss 12.5    lr 0.000123  grad_norm 0.5   pairs/s 12346  3 min left",
        "step  40/160  test/top1 0.3333",
        "step 160/160  loss 3.21    lr 5e-05     grad_norm 0.5   pairs/s 12346",
    ]


def test_numbers_of_the_machine_are_shown_only_if_they_matter():
    stream, machine = (
        Pipe(tty=False),
        {"host_ms": 1.2, "device_ms": 1234.5, "host_share": 0.001, "host_gb": 2.0},
    )
    terminal = Terminal(160, stream=stream)
    terminal.scalars(20, {"loss": 1.0, "skipped": 0, "data_wait": 3.8e-8, **machine})
    terminal.scalars(20, {"loss": 1.0, "skipped": 2, "data_wait": 0.35, **machine})
    terminal.scalars(20, {"monitor/rank": 3.0})
    alone, together = (line.split() for line in stream.getvalue().splitlines())
    assert alone == ["step", "20/160", "loss", "1"]
    assert together == [*alone, "skipped", "2", "data_wait", "0.35"]


def test_each_direction_of_retrieval_has_a_line_of_at_most_a_hundred_characters():
    values = {f"recall@{k}": 0.123456 for k in (1, 5, 10)} | {"median_rank": 10.5, "mean_rank": 130.54}
    stream = Pipe(tty=False)
    named = {f"test/{way}_{name}": value for way in DIRECTIONS for name, value in values.items()}
    terminal = Terminal(160, stream=stream)
    terminal.scalars(80, named)
    ranks = "recall@1 0.123  @5 0.123  @10 0.123  median_rank 10.5  mean 131"
    assert stream.getvalue().splitlines() == [
        f"step  80/160  test/image_to_text  {ranks}",
        f"              test/text_to_image  {ranks}",
    ]
    terminal.scalars(80, {f"test/a_metric_with_a_long_name_{i}": i for i in range(9)})
    lines = stream.getvalue().splitlines()
    assert len(lines) > 4 and max(map(len, lines)) <= 100


def test_each_width_of_the_embeddings_has_lines_of_its_own():
    stream = Pipe(tty=False)
    names = [f"test/{way}_recall@{k}{end}" for end in ("", "/8") for way in DIRECTIONS for k in (1, 5)]
    Terminal(160, stream=stream).scalars(80, dict.fromkeys(names, 0.5))
    assert stream.getvalue().splitlines() == [
        "step  80/160  test/image_to_text  recall@1 0.5  @5 0.5",
        "              test/text_to_image  recall@1 0.5  @5 0.5",
        "              test/image_to_text/8  recall@1 0.5  @5 0.5",
        "              test/text_to_image/8  recall@1 0.5  @5 0.5",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5.4, "5 s"),
        (89.0, "89 s"),
        (90.0, "2 min"),
        (3.5e3, "58 min"),
        (3.6e3, "1 h 0 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_durations_are_in_two_units_at_most(seconds, words):
    assert duration(seconds) == words


def test_a_terminal_gets_the_same_lines_above_a_bar():
    stream = Pipe(tty=True)
    terminal = Terminal(160, start_step=10, stream=stream)
    terminal.scalars(20, VALUES)
    terminal.scalars(40, {"recall@5": 0.25})
    terminal.close()
    text = stream.getvalue()
    assert "\rstep  20/160  loss 3.21    lr 5e-05     grad_norm 0.5   pairs/s 12346\n" in text
    assert "step  40/160  recall@5 0.25\n" in text
    frames = [frame for frame in text.split("\r") if "%|" in frame]
    assert " 10/160 " in frames[0]
    assert " 40/160 " in frames[-1]
    # Kept, since the evaluation has no such values of its own.
    assert "loss 3.21  lr 5e-05  pairs/s 12346]" in frames[-1]
    assert "grad_norm" not in frames[-1]


def test_what_others_print_beside_the_bar_stays():
    """A simulated terminal: only a carriage return goes back, and what it rewrites is the bar's own line."""
    stream = Pipe(tty=True)
    terminal = Terminal(160, stream=stream)
    terminal.scalars(20, {"loss": 1.0})
    stream.write("\nwarning: picture 7 is broken\n")
    terminal.scalars(40, {"loss": 0.5})
    terminal.close()
    text = stream.getvalue()
    assert "\x1b[A" not in text  # The cursor never moves up.
    screen = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        screen.append(shown.rstrip())
    for want in ("step  20/160  loss 1", "warning: picture 7 is broken", "step  40/160  loss 0.5"):
        assert want in screen


def test_the_bar_is_drawn_on_a_real_terminal():
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    code = (
        "from lit_jax.workdir.terminal import Terminal; t = Terminal(8);"
        "[t.scalars(i, {'loss': 1 / i}) for i in (4, 8)]; t.close()"
    )
    root = Path(lit_jax.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, cwd=root)
    text = os.read(ours, 10_000).decode()
    os.close(ours), os.close(theirs)
    assert "step 4/8  loss 0.25" in text
    assert re.search(r"100%\|.*\| 8/8 \[.*loss 0.125\]", text)
