"""The numbers of a run for its page: curves, metrics with intervals, time and memory, sessions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.evals.bootstrap import Interval, intervals
from lit_jax.evals.retrieval import KS, Retrieved
from lit_jax.tools.report.charts import Chart, Line, chart, groups
from lit_jax.utils.names import DIRECTIONS, TEST_PREFIX
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.files import METRICS, RANKS
from lit_jax.workdir.metrics import read_lines, read_rows
from lit_jax.workdir.sessions import SESSIONS

Row = Mapping[str, Any]  # A row of metrics.jsonl.
Bounds = Mapping[int, Mapping[str, Interval]]  # step -> metric -> interval
DIRECTION_WORDS = dict(zip(DIRECTIONS, ("picture to caption", "caption to picture"), strict=True))


class Measured(NamedTuple):
    """A metric at the first and at the last evaluation; `interval` belongs to the last."""

    name: str
    before: float | None
    after: float
    interval: Interval | None
    chance: float | None


class Cost(NamedTuple):
    """What the logged steps took; a field is None if it was not measured."""

    seconds: float  # For the steps only, without the start, the evaluations and the cache.
    speed: float  # Pairs a second.
    waited: float  # Share of the time in which the devices waited for data.
    skipped: int  # Steps without an update because they were not finite.
    host_gb: float | None
    device_gb: float | None


class Session(NamedTuple):
    """When and where training started or resumed."""

    step: int
    time: str
    devices: str
    processes: int
    versions: str


def rows(workdir: Workdir) -> list[Row]:
    """The complete rows of the metrics."""
    return list(read_rows(workdir / METRICS))


def tested(rows: Sequence[Row]) -> list[Row]:
    """The rows of evaluations."""
    return [row for row in rows if any(name.startswith(TEST_PREFIX) for name in row)]


def ranks(workdir: Workdir) -> dict[int, Path]:
    """Step -> the file of its ranks, for each evaluation that has one."""
    found = {}
    for path in (workdir / RANKS).glob("step_*.npz"):
        step = path.stem.removeprefix("step_")
        if step.isascii() and step.isdecimal():
            found[int(step)] = path
    return dict(sorted(found.items()))


def bounds(ranks: Mapping[int, Path]) -> Bounds:
    """The intervals of the evaluations at which charts have a point, and of the last one.

    Each takes a while, and a run can have thousands. Raises DataError for a damaged file.
    """
    return {group[-1]: intervals(Retrieved.load(ranks[group[-1]])) for group in groups(list(ranks))}


def measured(tested: Sequence[Row], bounds: Bounds, chance: Mapping[str, float]) -> list[Measured]:
    """Every metric of the last evaluation."""
    if not tested:
        return []
    first, last = tested[0], tested[-1]
    values = {
        name.removeprefix(TEST_PREFIX): value for name, value in last.items() if name.startswith(TEST_PREFIX)
    }
    return [
        Measured(
            name,
            first.get(f"{TEST_PREFIX}{name}") if first is not last else None,
            value,
            bounds.get(last["step"], {}).get(name),
            chance.get(name),
        )
        for name, value in values.items()
        if value is not None and "/" not in name
    ]


def by_width(tested: Sequence[Row]) -> dict[int, list[float | None]]:
    """Width of a prefix -> the recalls of both directions in the last evaluation; {} if none was measured."""
    last = tested[-1] if tested else {}
    ends = {name.rpartition("/")[2] for name in last if name.startswith(f"{TEST_PREFIX}{DIRECTIONS[0]}")}
    widths = sorted(int(end) for end in ends if end.isascii() and end.isdecimal())
    names = [f"{TEST_PREFIX}{way}_recall@{k}" for way in DIRECTIONS for k in KS]
    return {width: [last.get(f"{name}/{width}") for name in names] for width in widths}


def charts(rows: Sequence[Row], bounds: Bounds) -> list[Chart]:
    """The charts of everything that was logged."""

    def line(key: str, name: str) -> Line:
        points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
        metric = key.removeprefix(TEST_PREFIX)
        ends = [] if key == metric else [(step, bounds.get(int(step), {}).get(metric)) for step, _ in points]
        return Line(name, points, [(step, *between) for step, between in ends if between])

    wanted = [
        chart("Loss", [line("loss", "loss")]),
        chart("Temperature, as logit scale", [line("logit_scale", "logit scale")]),
        chart("Learning rate", [line("lr", "learning rate")], zero=True),
        *(
            chart(
                f"Recall@{k}",
                [line(f"{TEST_PREFIX}{way}_recall@{k}", name) for way, name in DIRECTION_WORDS.items()],
                zero=True,
            )
            for k in KS
        ),
        chart("Gradient norm", [line("grad_norm", "gradient norm")], zero=True),
        chart("Pairs a second", [line("pairs/s", "pairs a second")], zero=True),
        chart(
            "Most memory so far, GB",
            [line("host_gb", "this process"), line("device_gb", "the fullest device")],
            zero=True,
        ),
    ]
    return [chart for chart in wanted if chart]


def cost(rows: Sequence[Row], batch_size: int) -> Cost | None:
    """The cost of the logged steps; None if there are none."""
    steps = [row for row in rows if (row.get("pairs/s") or 0) > 0]
    seconds, before = 0.0, 0
    for row in steps:
        seconds += (row["step"] - before) * batch_size / row["pairs/s"]
        before = row["step"]
    if not seconds > 0:
        return None

    def most(key: str) -> float | None:
        return max((row[key] for row in steps if row.get(key) is not None), default=None)

    return Cost(
        seconds,
        before * batch_size / seconds,
        sum(row.get("data_wait") or 0.0 for row in steps) / len(steps),
        int(most("skipped") or 0),
        most("host_gb"),
        most("device_gb"),
    )


def sessions(workdir: Workdir) -> list[Session]:
    """The sessions in order; [] if the run is of a version that did not record them."""

    def number(value: Any, default: int) -> int:
        return value if type(value) is int else default

    return [
        Session(
            number(row.get("step"), 0),
            str(row.get("time", "")).replace("T", " ").replace("+00:00", " UTC"),
            str(row.get("devices", "")),
            number(row.get("processes"), 1),
            versions(row),
        )
        for row in read_lines(workdir / SESSIONS)
    ]


def versions(machine: Mapping[str, Any]) -> str:
    """The versions in `machine()`, in one line."""
    packages = machine.get("packages")
    named = {
        "lit_jax": machine.get("lit_jax"),
        "Python": machine.get("python"),
        **(packages if isinstance(packages, dict) else {}),
    }
    return ", ".join(f"{name} {number}" for name, number in named.items() if number)
