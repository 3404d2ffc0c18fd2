"""A process that opens other people's pictures and is killed if one of them takes too long.

A small file can keep its decoder busy for hours, and a thread cannot be killed. This module is also the script of that
process, which reads requests from its standard input until it ends.
"""

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import lit_jax
from lit_jax.data.transforms.image_files import open_image
from lit_jax.tools import pages
from lit_jax.tools.demo.later import later
from lit_jax.utils.errors import DataError, first_line

SECONDS = 10  # Seconds of CPU time for one picture.
_CLOCK = 3.0  # Seconds of wall clock for each of these, since other processes compute as well.
_START = 60.0  # Seconds of wall clock until the process reads.
_HELLO = b"!"
MEMORY = 4 << 30  # Most bytes of memory of the process.
_REQUEST = struct.Struct("<IQ")  # The side of a thumbnail, 0 for none, and the bytes of the picture.
_ANSWER = struct.Struct("<?Q")  # Whether it was opened, and the bytes of the thumbnail or of the reason.


class Opener:
    """Opens one picture at a time; the process starts with the first. Threads may share it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def check(self, content: bytes) -> None:
        """Raises DataError if a picture cannot be opened within the limits, HTTPException if no process can start."""
        self._ask(0, content)

    def small(self, content: bytes, side: int) -> bytes:
        """A picture as a WEBP file of at most `side` pixels. Raises DataError as `check`."""
        return self._ask(side, content)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, side: int, content: bytes) -> bytes:
        with self._lock:
            try:
                process = self._running()
            except (OSError, EOFError) as error:
                self.close()
                raise later(f"No picture can be opened now ({first_line(error)}); try again soon.") from error
            try:
                assert process.stdin and process.stdout
                with _killed_after(_CLOCK * SECONDS, process):
                    process.stdin.write(_REQUEST.pack(side, len(content)) + content)
                    process.stdin.flush()
                    is_fine, size = _ANSWER.unpack(_read(process.stdout, _ANSWER.size))
                    answer = _read(process.stdout, size)
            except (OSError, EOFError) as error:
                self.close()
                raise DataError(
                    f"the picture needs more than {SECONDS} seconds or {MEMORY >> 30} GiB to be opened; "
                    "save it again in another format"
                ) from error
        if not is_fine:
            raise DataError(answer.decode())
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, which has begun to read."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            places = [str(Path(lit_jax.__file__).parents[1]), *filter(None, sys.path)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "OPENBLAS_NUM_THREADS": "1"},
            )
            assert self._process.stdout
            with _killed_after(_START, self._process):
                _read(self._process.stdout, len(_HELLO))
        return self._process


@contextmanager
def _killed_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read(file: IO[bytes], size: int) -> bytes:
    if len(content := file.read(size)) < size:
        raise EOFError
    return content


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write(_HELLO)
    sys.stdout.buffer.flush()
    with suppress(EOFError):
        while True:
            side, size = _REQUEST.unpack(_read(sys.stdin.buffer, _REQUEST.size))
            # The limit counts all CPU time of the process so far; its signal ends the process.
            seconds = int(time.process_time()) + SECONDS + 1
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
            content, answer, is_fine = _read(sys.stdin.buffer, size), b"", True
            try:
                picture = open_image(content)
                answer = pages.small(picture, side) if side else b""
            except DataError as error:
                answer, is_fine = str(error).encode("utf-8", "replace"), False
            sys.stdout.buffer.write(_ANSWER.pack(is_fine, len(answer)) + answer)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
