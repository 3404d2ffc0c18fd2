"""Where numbers of a run go: the terminal, a JSONL file, TensorBoard, or several of them."""

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

Values = Mapping[str, SupportsFloat]  # Python, NumPy and JAX scalars alike.


@runtime_checkable
class Writer(Protocol):
    """Takes the values of one step at a time. After `close` it takes no more."""

    def scalars(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """One line for each call; on a terminal also a progress bar below the lines, with loss, lr and pairs/s.

    Values whose names begin with HIDDEN are left out: they are many, and for the files.
    `stream` is standard error unless given. The bar only ever rewrites its own line, so that what others print
    meanwhile stays readable.
    """

    SHOWN = ("loss", "lr", "pairs/s")
    HIDDEN = "monitor/"

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
            name: f"{name} {_short(float(value))}"
            for name, value in values.items()
            if not name.startswith(self.HIDDEN)
        }
        if not words:
            return
        line = "  ".join((f"step {step}/{self._total}", *words.values()))
        if not self._bar:
            print(line, file=self._stream, flush=True)
            return
        self._bar.write(line, file=self._stream)
        self._bar.n = step
        if shown := [words[name] for name in self.SHOWN if name in words]:  # An evaluation has none of them.
            self._bar.set_postfix_str("  ".join(shown), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar:
            self._bar.close()


class Jsonl:
    """Appends one `{"step": n, name: value, ...}` a call to a file; a kill of the process loses no row.

    A run resumed at `start_step` first drops the rows of later steps and a last line that was cut in half, and
    then leaves out values which its `start_step` rows already hold: no value of a step stands twice. What is not
    finite is written as null, since JSON knows no NaN.

    Raises DataError when the file holds a line that is no such row.
    """

    def __init__(self, path: str | os.PathLike[str], *, start_step: int = 0):
        self._path, self._start = Path(path), start_step
        self._path.parent.mkdir(parents=True, exist_ok=True)
        old = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # A line without its end was cut by a kill. Its step is done again, or was not logged in full.
        lines = old.splitlines(keepends=True)
        rows = [(self._row(i, line), line) for i, line in enumerate(lines) if line.endswith("\n")]
        kept = "".join(line for row, line in rows if row["step"] <= start_step)
        self._written = {name for row, _ in rows if row["step"] == start_step for name in row}
        if kept != old:  # Replaced at once: a kill in the middle of this must not lose the rows to keep.
            put(self._path, lambda draft: draft.write_text(kept, encoding="utf-8"))
        self._file = self._path.open("a", encoding="utf-8")

    def _row(self, i: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(
                f"line {i + 1} of {self._path.name} is no metrics row: {line[:60]!r}; wanted "
                f'{{"step": n, ...}}: mend the line or move the file away'
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
    """The objects in a file of JSON lines, none where there is no file; a line that a kill has cut is passed over."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


class TensorBoard:
    """Event files for TensorBoard in `folder`; values later than `start_step`, of a run that was cut, are hidden.

    A thread writes them, so that a kill loses up to a second of them; `Jsonl` has them all.
    Raises ConfigError where tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, start_step: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "TensorBoard files were asked for and tensorboardX is not installed; pip install tensorboardX"
            ) from None
        self._writer = SummaryWriter(
            os.fspath(folder),
            purge_step=start_step + 1,
            flush_secs=1,
            filename_suffix=f".{start_step}",  # Names differ by seconds only: a quick restart would overwrite.
        )

    def scalars(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._writer.close()


class Writers:
    """Several writers as one. Each of them is served even if one before it fails; then the error goes on."""

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
    """Those of a run that goes on after step `start` of `steps`: on the first process all three, elsewhere none."""
    if not is_main_process():
        return Writers()
    return Writers(
        Jsonl(rows, start_step=start),
        TensorBoard(events, start_step=start),
        Terminal(steps, start_step=start),
    )


def _short(value: float) -> str:
    """A number for the eye: four digits, no exponent for large ones."""
    return f"{value:.0f}" if 1_000 <= abs(value) < 1e9 else f"{value:.4g}"
