"""The numbers of a run on a terminal or in a log: lines of at most 100 characters, and a progress bar below them."""

import io
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import SupportsFloat

from tqdm import tqdm

from lit_jax.utils.names import DIRECTIONS, MONITOR_PREFIX, TEST_PREFIX
from lit_jax.utils.shown import in_line, say, unseen_if_lost

Values = Mapping[str, SupportsFloat]  # Python, NumPy and JAX scalars alike.

WIDTH = 100
# Numbers that are mainly for the files -> the value from which they are shown here as well.
_ASIDE = {
    **{name: float("inf") for name in ("host_ms", "device_ms", "host_share", "host_gb", "device_gb")},
    **{"skipped": 1, "data_wait": 0.05},
}
# The numbers of a step, in this order -> width, so that they line up in columns, and significant digits.
_COLUMNS = {"loss": (6, 4), "lr": (8, 3), "logit_scale": (5, 4), "grad_norm": (4, 3), "pairs/s": (5, 4)}
# Short names of retrieval metrics, so that those of one direction fit on a line.
_SHORTER = {"recall@5": "@5", "recall@10": "@10", "mean_rank": "mean"}


class Terminal:
    """A line for each call, or more for what does not fit on one; on a terminal also a bar with the values of SHOWN.

    A log shows the time that is left in the line of each step; a terminal shows it in its bar, which rewrites only its
    own line, so that other output stays readable. Metrics of embeddings (MONITOR_PREFIX) and unremarkable numbers of
    the machine are left out: `metrics.jsonl` has them all. `stream` is standard error by default, and `clock` gives
    seconds.
    """

    SHOWN = ("loss", "lr", "pairs/s")

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._total, self._clock = total_steps, clock
        self._first: tuple[int, float] | None = None  # The first step of this run that was shown, and when.
        self._bar = self._stream.isatty() and tqdm(
            total=total_steps,
            initial=start_step,
            file=self._stream,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def scalars(self, step: int, values: Values) -> None:
        plain = {
            name: float(value)
            for name, value in values.items()
            if not name.startswith(MONITOR_PREFIX) and not float(value) < _ASIDE.get(name, float("-inf"))
        }
        if not plain:
            return
        left = [] if self._bar or "loss" not in plain else self._left(step)
        with unseen_if_lost():
            self._show(step, plain, left)

    def _show(self, step: int, plain: Mapping[str, float], left: list[str]) -> None:
        head = f"step {step:>{len(str(self._total))}}/{self._total}"
        for line in wrapped(head, [*_words(plain), *left]):
            if self._bar:
                self._bar.write(in_line(line), file=self._stream)
            else:
                say(line, stream=self._stream)
        if self._bar:
            self._bar.n = step
            # An evaluation has no numbers of SHOWN.
            if shown := [_word(name, plain[name]).strip() for name in self.SHOWN if name in plain]:
                self._bar.set_postfix_str("  ".join(shown), refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        if self._bar:
            with unseen_if_lost():
                self._bar.close()

    def _left(self, step: int) -> list[str]:
        """How long the rest takes at the speed since the first call, evaluations included."""
        now = self._clock()
        if self._first is None:
            self._first = step, now
        first, since = self._first
        if step <= first or step >= self._total:
            return []
        return [f"{duration((now - since) / (step - first) * (self._total - step))} left"]


def wrapped(head: str, words: list[str]) -> Iterator[str]:
    """`head` and `words` in lines of at most WIDTH characters, later ones indented; a newline in `words` ends one."""
    line = head
    for word in words:
        if word == "\n" or len(line) + 2 + len(word) > WIDTH:
            yield line.rstrip()
            line = " " * len(head)
        if word != "\n":
            line += f"  {word}"
    yield line.rstrip()


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min` or `2 d 5 h`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _words(values: Mapping[str, float]) -> Iterator[str]:
    """The values in words; each direction of retrieval, at each width, has a line of its own."""
    rest = {name: values[name] for name in (*_COLUMNS, *values) if name in values}
    ends = dict.fromkeys(_of_width(name) for name in values)  # "", "/64", "/128" ...
    for direction, end in ((direction, end) for end in ends for direction in DIRECTIONS):
        prefix = f"{TEST_PREFIX}{direction}_"
        names = [name for name in values if name.startswith(prefix) and _of_width(name) == end]
        of_it = {name.removeprefix(prefix).removesuffix(end): rest.pop(name) for name in names}
        if of_it:
            yield f"{TEST_PREFIX}{direction}{end}"
            yield from (f"{_SHORTER.get(name, name)} {_short(value, 3)}" for name, value in of_it.items())
            if rest:
                yield "\n"
    yield from (_word(name, value) for name, value in rest.items())


def _of_width(name: str) -> str:
    """The suffix of a metric that is measured at a width of the embeddings, such as "/64"; "" for others."""
    return found[0] if (found := re.search(r"/\d+$", name)) else ""


def _word(name: str, value: float) -> str:
    width, digits = _COLUMNS.get(name, (0, 4))
    return f"{name} {_short(value, digits):<{width}}"


def _short(value: float, digits: int) -> str:
    """A readable number: `digits` significant digits, and no exponent for large ones."""
    return f"{value:.0f}" if 10 ** (digits - 1) <= abs(value) < 1e9 else f"{value:.{digits}g}"
