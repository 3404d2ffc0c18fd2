"""Where the numbers of a run go: a JSONL file, TensorBoard, the `terminal`, or several of them."""

import json
import logging
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lit_jax.parallel.distributed import is_main_process
from lit_jax.utils import strict_json
from lit_jax.utils.atomic import clear, put
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.workdir.terminal import Terminal, Values

log = logging.getLogger(__name__)


@runtime_checkable
class Writer(Protocol):
    """Takes the values of one step at a time, until `close`."""

    def scalars(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class Jsonl:
    """Appends one `{"step": n, name: value, ...}` per call to a file; a kill of the process loses no row.

    A run resumed at `start_step` first drops the rows of later steps and an incomplete last line, and then leaves out
    values that the rows of `start_step` already have: no value of a step occurs twice. A value that is not finite is
    written as null, since JSON has no NaN. A file that is removed during the run is begun anew, and a folder of its
    name is set aside.

    Raises DataError if a line of the file is not such a row.
    """

    def __init__(self, path: str | os.PathLike[str], *, start_step: int = 0):
        self._path, self._start = Path(path), start_step
        self._path.parent.mkdir(parents=True, exist_ok=True)
        clear(self._path, log)
        try:
            *lines, last = strict_json.lines(self._path) if self._path.exists() else [b""]
        except ValueError as error:
            raise DataError(f"{self._path} cannot be continued: {error}; move it away") from error
        old = b"\n".join([*lines, last])
        rows = [self._row(i, line) for i, line in enumerate(lines)]
        if (row := _object(last)) is not None:  # Otherwise cut by a kill; its step will be logged again.
            lines, rows = [*lines, last], [*rows, row]
        kept = b"".join(
            line + b"\n" for row, line in zip(rows, lines, strict=True) if row["step"] <= start_step
        )
        self._written = {name for row in rows if row["step"] == start_step for name in row}
        if kept != old:  # Replaced atomically: a kill here must not lose the rows to keep.
            put(self._path, lambda draft: draft.write_bytes(kept))
        self._file = self._path.open("a", encoding="utf-8")

    def _row(self, i: int, line: bytes) -> dict[str, Any]:
        if (row := _object(line)) is None:
            shown = line[:60].decode(errors="backslashreplace")
            raise DataError(
                f"line {i + 1} of {self._path.name} is not a metrics row: {shown!r}; wanted "
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
        if not self._file.closed and not self._path.exists():
            log.warning("%s is gone; it is begun anew with step %d", self._path, step)
            self._file.close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; [] if there is none. Other lines (one cut by a kill, say) are left out.

    A number that is not finite or has more than 64 characters is None. Raises DataError for a pipe, and for a file
    larger than any run writes.
    """
    try:
        lines = strict_json.lines(path) if path.exists() and not path.is_dir() else []
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}; move it away") from error
    return [row for row in map(_parsed, lines) if row is not None]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows in the file of a `Jsonl`. A value that is not a finite number is None."""
    rows = [row for row in read_lines(path) if _is_step(row.get("step"))]
    return [{name: value if _is_number(value) else None for name, value in row.items()} for row in rows]


def _object(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None if it is not one."""
    row = _parsed(line)
    return row if row is not None and _is_step(row.get("step")) else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None if there is none."""
    try:
        row = strict_json.parse(line, odd=lambda number: None)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


class TensorBoard:
    """An event file for TensorBoard in `folder`; earlier values of steps after `start_step` are hidden.

    Events are written directly and not by tensorboardX's thread: a clock that is set back or a full disk ends or delays
    that thread, which then holds up the run. Raises ConfigError if tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, start_step: int = 0):
        try:
            from tensorboardX import record_writer, summary
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        except ImportError:
            raise ConfigError(
                "a run writes TensorBoard files, and tensorboardX is not installed; pip install tensorboardX"
            ) from None
        self._event, self._summary, self._crc = Event, summary.scalar, record_writer.masked_crc32c
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Names differ only by whole seconds: a quick restart appends, instead of overwriting the file.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{start_step}"
        self._file = (Path(folder) / name).open("ab", buffering=0)
        session = SessionLog(status=SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=start_step + 1, file_version="brain.Event:2")
        self._write(step=start_step + 1, session_log=session)

    def scalars(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._write(step=step, summary=self._summary(name, float(value)))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        """Appends an event as a TFRecord."""
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        head = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", self._crc(part)) for part in (head, data))
        self._file.write(b"".join((head, next(sums), data, next(sums))))


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


def writers(
    rows: Path, events: Path, steps: int, start: int, further: Callable[[], Sequence[Writer]] = list
) -> Writers:
    """The writers of a run that continues after step `start` of `steps`: all of them on the first process, else none.

    `further` makes those that are added to the three of every run.
    """
    if not is_main_process():
        return Writers()
    return Writers(
        *further(),
        Jsonl(rows, start_step=start),
        TensorBoard(events, start_step=start),
        Terminal(steps, start_step=start),
    )
