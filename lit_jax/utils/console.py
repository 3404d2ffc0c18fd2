"""Progress on a terminal or in a log, and tables as text and in Markdown."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from lit_jax.utils.shown import in_line, say, unseen_if_lost
from lit_jax.utils.typing import Progress

QUIET = 5.0  # Seconds between two lines in a log.


@contextmanager
def progress(what: str, *, show: bool = True) -> Iterator[Progress]:
    """Yields `report(done, total)`, which prints to standard error: a bar on a terminal, else a line every few seconds.

    With `show=False`, as in all processes of a run except the first, it prints nothing.
    """
    if not show:
        yield lambda done, total: None
        return
    stream = sys.stderr
    if stream.isatty():
        bar = tqdm(desc=what, file=stream, dynamic_ncols=True)

        def report(done: int, total: int) -> None:
            bar.total = total
            with unseen_if_lost():
                bar.update(done - bar.n)

        try:
            yield report
        finally:
            with unseen_if_lost():
                bar.close()
        return
    last = time.monotonic()

    def lines(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= QUIET:
            last = time.monotonic()
            with unseen_if_lost():
                say(f"{what}: {done}/{total}", stream=stream)

    yield lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in columns: the first is left-aligned, the others right-aligned, with a rule under the header."""
    header, rows = [*map(in_line, header)], [[*map(in_line, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)])

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """The same table in Markdown; with `numbers` all columns except the first are right-aligned."""
    rule = ["---"] + ["---:" if numbers else "---"] * (len(header) - 1)

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(in_line(" ".join(cell.split())).replace("|", r"\|") for cell in cells) + " |"

    return "\n".join(map(line, (header, rule, *rows)))
