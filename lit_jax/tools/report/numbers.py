"""The numbers of a run as its page shows them: curves, metrics with their intervals, time and memory, sessions."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_jax.evals.bootstrap import Interval, intervals
from lit_jax.evals.retrieval import Retrieved
from lit_jax.tools.report.charts import Chart, Line, chart
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.files import METRICS, RANKS
from lit_jax.workdir.metrics import read_lines
from lit_jax.workdir.sessions import SESSIONS

Row = Mapping[str, Any]  # Of metrics.jsonl.
Bounds = Mapping[int, Mapping[str, Interval]]  # step -> metric -> interval
DIRECTIONS = {"image_to_text": "picture to caption", "text_to_image": "caption to picture"}


class Measured(NamedTuple):
    """A metric at the first and the last evaluation; `interval` is that of the last."""

    name: str
    before: float | None
    after: float
    interval: Interval | None
    chance: float | None


class Cost(NamedTuple):
    """What the logged steps took; None where it was not measured."""

    seconds: float  # In steps alone: without the start, evaluations and the cache.
    speed: float  # Pairs a second.
    waited: float  # Share of the time in which the devices waited for data.
    skipped: int  # Steps that changed nothing, since they were not finite.
    host_gb: float | None
    device_gb: float | None


class Session(NamedTuple):
    """Where and when training began or went on."""

    step: int
    time: str
    devices: str
    processes: int
    versions: str


def rows(workdir: Workdir) -> list[Row]:
    """Of the metrics, those that are whole."""
    return [row for row in read_lines(workdir / METRICS) if isinstance(row.get("step"), int)]


def tested(rows: Sequence[Row]) -> list[Row]:
    """The evaluations."""
    return [row for row in rows if any(name.startswith("test/") for name in row)]


def bounds(workdir: Workdir) -> Bounds:
    """Of the evaluations whose ranks were kept. Raises DataError for a file that is damaged."""
    found = {}
    for path in sorted((workdir / RANKS).glob("step_*.npz")):
        step = path.stem.removeprefix("step_")
        if step.isdigit():
            found[int(step)] = intervals(Retrieved.load(path))
    return found


def measured(tested: Sequence[Row], bounds: Bounds, chance: Mapping[str, float]) -> list[Measured]:
    """Every metric of the last evaluation."""
    if not tested:
        return []
    first, last = tested[0], tested[-1]
    values = {name.removeprefix("test/"): value for name, value in last.items() if name.startswith("test/")}
    return [
        Measured(
            name,
            first.get(f"test/{name}") if first is not last else None,
            value,
            bounds.get(last["step"], {}).get(name),
            chance.get(name),
        )
        for name, value in values.items()
        if value is not None
    ]


def charts(rows: Sequence[Row], bounds: Bounds) -> list[Chart]:
    """Of all that was logged."""

    def line(key: str, name: str) -> Line:
        points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
        metric = key.removeprefix("test/")
        ends = [] if key == metric else [(step, bounds.get(int(step), {}).get(metric)) for step, _ in points]
        return Line(name, points, [(step, *between) for step, between in ends if between])

    wanted = [
        chart("Loss", [line("loss", "loss")]),
        chart("Temperature, as logit scale", [line("logit_scale", "logit scale")]),
        chart("Learning rate", [line("lr", "learning rate")], zero=True),
        *(
            chart(
                f"Recall@{k}",
                [line(f"test/{way}_recall@{k}", name) for way, name in DIRECTIONS.items()],
                zero=True,
            )
            for k in (1, 5, 10)
        ),
        chart("Gradient norm", [line("grad_norm", "gradient norm")], zero=True),
        chart("Pairs a second", [line("pairs/s", "pairs a second")], zero=True),
        chart(
            "Most memory so far, GB",
            [line("host_gb", "this process"), line("device_gb", "the fullest device")],
            zero=True,
        ),
    ]
    return [one for one in wanted if one]


def cost(rows: Sequence[Row], batch_size: int) -> Cost | None:
    """None where no step was logged."""
    steps = [row for row in rows if row.get("pairs/s")]
    if not steps:
        return None
    seconds, before = 0.0, 0
    for row in steps:
        seconds += (row["step"] - before) * batch_size / row["pairs/s"]
        before = row["step"]

    def most(key: str) -> float | None:
        return max((row[key] for row in steps if row.get(key) is not None), default=None)

    return Cost(
        seconds,
        before * batch_size / seconds,
        statistics.fmean(row.get("data_wait") or 0.0 for row in steps),
        int(most("skipped") or 0),
        most("host_gb"),
        most("device_gb"),
    )


def sessions(workdir: Workdir) -> list[Session]:
    """In order; [] for a run of before they were noted."""
    return [
        Session(
            one.get("step", 0),
            str(one.get("time", "")).replace("T", " ").replace("+00:00", " UTC"),
            str(one.get("devices", "")),
            one.get("processes", 1),
            versions(one),
        )
        for one in read_lines(workdir / SESSIONS)
    ]


def versions(machine: Mapping[str, Any]) -> str:
    """Of `machine()`, in one line."""
    named = {
        "lit_jax": machine.get("lit_jax"),
        "Python": machine.get("python"),
        **machine.get("packages", {}),
    }
    return ", ".join(f"{name} {number}" for name, number in named.items() if number)
