"""Where the numbers of a run go: the terminal, a JSONL file, TensorBoard, or several of them."""

import io
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from tqdm import tqdm

from lit_jax.parallel.distributed import is_main_process
from lit_jax.utils.atomic import put
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.names import MONITOR_PREFIX

Values = Mapping[str, SupportsFloat]  # Python, NumPy and JAX scalars alike.
_DIGITS = {"host_ms": 3, "device_ms": 3, "host_share": 2, "data_wait": 2}  # Shown in a terminal; else 4.


@runtime_checkable
class Writer(Protocol):
    """Takes the values of one step at a time, until `close`."""

    def scalars(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """One line for each call; on a terminal also a progress bar below the lines, with the values of SHOWN.

    Values whose names begin with MONITOR_PREFIX are left out: they are many, and meant for the files.
    `stream` is standard error by default. The bar rewrites only its own line, so that other output stays readable.
    """

    SHOWN = ("loss", "lr", "pairs/s")

    def __init__(self, total_steps: int, *, start_step: int = 0, stream: io.TextIOBase | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._total = total_steps
        self._bar = self._stream.isatty() and tqdm(
            total=total_steps,
            initial=start_step,
            file=self._stream,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def scalars(self, step: int, values: Values) -> None:
        words = {
            name: f"{name} {_short(float(value), _DIGITS.get(name, 4))}"
            for name, value in values.items()
            if not name.startswith(MONITOR_PREFIX)
        }
        if not words:
            return
        line = "  ".join((f"step {step}/{self._total}", *words.values()))
        if not self._bar:
            print(line, file=self._stream, flush=True)
            return
        self._bar.write(line, file=self._stream)
        self._bar.n = step
        if shown := [words[name] for name in self.SHOWN if name in words]:  # Not after an evaluation.
            self._bar.set_postfix_str("  ".join(shown), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar:
            self._bar.close()


class Jsonl:
    """Appends one `{"step": n, name: value, ...}` a call to a file; a kill of the process loses no row.

    A run resumed at `start_step` first drops the rows of later steps and an incomplete last line, and then leaves out
    values that the rows of `start_step` already have: no value of a step occurs twice. A value that is not finite is
    written as null, since JSON has no NaN.

    Raises DataError if a line of the file is not such a row.
    """

    def __init__(self, path: str | os.PathLike[str], *, start_step: int = 0):
        self._path, self._start = Path(path), start_step
        self._path.parent.mkdir(parents=True, exist_ok=True)
        old = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # A line without a line end was cut by a kill; its step will be logged again.
        lines = old.splitlines(keepends=True)
        rows = [(self._row(i, line), line) for i, line in enumerate(lines) if line.endswith("\n")]
        kept = "".join(line for row, line in rows if row["step"] <= start_step)
        self._written = {name for row, _ in rows if row["step"] == start_step for name in row}
        if kept != old:  # Replaced atomically: a kill here must not lose the rows to keep.
            put(self._path, lambda draft: draft.write_text(kept, encoding="utf-8"))
        self._file = self._path.open("a", encoding="utf-8")

    def _row(self, i: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(
                f"line {i + 1} of {self._path.name} is not a metrics row: {line[:60]!r}; wanted "
                f'{{"step": n, ...}}: repair the line or move the file away'
            )
        return row

    def scalars(self, step: int, values: Values) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        if step == self._start:
            numbers = {name: number for name, number in numbers.items() if name not in self._written}
            if not numbers:
                return
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; [] without a file. A line that was cut by a kill is skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class TensorBoard:
    """Event files for TensorBoard in `folder`; earlier values of steps after `start_step` are hidden.

    A thread writes them, so that a kill may lose the last second; `Jsonl` loses nothing.
    Raises ConfigError if tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, start_step: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "a run writes TensorBoard files, and tensorboardX is not installed; pip install tensorboardX"
            ) from None
        self._writer = SummaryWriter(
            os.fspath(folder),
            purge_step=start_step + 1,
            flush_secs=1,
            filename_suffix=f".{start_step}",  # Names differ only by seconds, so a quick restart would overwrite.
        )

    def scalars(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._writer.close()


class Writers:
    """Several writers as one. All of them are called even if one fails; its error is raised afterwards."""

    def __init__(self, *writers: Writer):
        self._writers = writers

    def scalars(self, step: int, values: Values) -> None:
        with ExitStack() as calls:
            for writer in reversed(self._writers):
                calls.callback(writer.scalars, step, values)

    def close(self) -> None:
        with ExitStack() as calls:
            for writer in reversed(self._writers):
                calls.callback(writer.close)


def writers(rows: Path, events: Path, steps: int, start: int) -> Writers:
    """The writers of a run that continues after step `start` of `steps`: all three on the first process, else none."""
    if not is_main_process():
        return Writers()
    return Writers(
        Jsonl(rows, start_step=start),
        TensorBoard(events, start_step=start),
        Terminal(steps, start_step=start),
    )


def _short(value: float, digits: int) -> str:
    """A readable number: so many significant digits, and no exponent for large ones."""
    return f"{value:.0f}" if 10 ** (digits - 1) <= abs(value) < 1e9 else f"{value:.{digits}g}"
