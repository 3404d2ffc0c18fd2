"""A run that is killed by SIGKILL at one point after another, and started again after each.

    python -m tests.faults.drill FOLDER STEPS [POINT ...]
    python -m tests.faults.drill FOLDER early RUNS

Every run is a process of its own, forked from this one, which has imported everything and computed nothing. Each run
logs, step by step, the records of the batch and the sha256 of the whole state. With `early`, many short runs are
killed up to three times each, at any moment of the first EARLY seconds. Prints JSON. If a run was not killed at its
point, a line on standard error names the point, and the exit status is NEVER_CALLED if the patched function was never
called, or NEVER_MET if it was never called in the way that the point describes.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lit_jax.hf import model_folder, save
from lit_jax.tools import export, run_card
from lit_jax.train import build, evaluation, inputs, loop
from lit_jax.utils import checksums
from lit_jax.workdir import checkpoints, metrics
from tests import tiny

SAVE_EVERY = 4
ALL = 240  # Steps within which a run can reach every point.
EARLY = 20.0  # `early` kills a run within this many seconds of its start.
NEVER_CALLED, NEVER_MET = 70, 71  # Exit statuses of a process that should have been killed and was not.
# Metrics that depend on the machine.
TIMES = ("pairs/s", "data_wait", "host_ms", "device_ms", "host_share", "host_gb", "device_gb")


class Point(NamedTuple):
    """A call of `owner.name` at which a process dies: `before` and `after` get the arguments of every call."""

    owner: Any
    name: str
    before: Callable[[tuple], object] | None = None
    after: Callable[[tuple], object] | None = None

    @property
    def target(self):
        return f"{getattr(self.owner, '__name__', self.owner)}.{self.name}"

    def patch(self):
        """Patches the function, and returns a list that gets an item for each call."""
        plain, calls = getattr(self.owner, self.name), []

        def called(*args, **options):
            calls.append(1)
            if self.before:
                self.before(args)
            result = plain(*args, **options)
            if self.after:
                self.after(args)
            return result

        setattr(self.owner, self.name, called)
        return calls


class Log:
    """What a run saw, written to disk at once, one line per batch and step."""

    def __init__(self, path):
        self.file = path.open("a")

    def step(self, row):
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def nth(count, condition=lambda args: True):
    """Dies at the `count`-th call for which the condition holds."""
    left = [count]

    def call(args):
        left[0] -= bool(condition(args))
        if left[0] == 0:
            die()

    return call


def ends(text):
    return lambda args: str(args[1]).endswith(text)


def of_step(args):
    """Whether the call renames a folder to the name of a complete step."""
    return Path(args[1]).name.startswith("step_") and "tmp" not in Path(args[1]).name


def into_second_save(seconds):
    """Dies `seconds` after the second save began, wherever the threads are by then."""
    left = [2]

    def start(args):
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(seconds, die).start()

    return Point(checkpoints.ocp.CheckpointManager, "save", before=start)


def half_a_row(args):
    args[0]._file.write('{"step": 1')
    args[0]._file.flush()
    die()


def in_background(args):
    """Whether the call is in a thread other than that of training, as when an old step is removed."""
    return threading.current_thread() is not threading.main_thread()


# The points of training, in an order in which one run can reach them.
POINTS = {
    "describing the model": Point(Path, "write_text", before=nth(1, lambda a: a[0].name == "config.json")),
    "before the recipe is there": Point(Path, "replace", before=nth(1, ends("config.json"))),
    "first evaluation": Point(evaluation, "retrieve", before=nth(1)),
    "first step": Point(Log, "step", before=nth(1)),
    "writing locked": Point(os, "rename", before=nth(1, ends("/locked"))),
    "locked is there": Point(os, "rename", after=nth(1, ends("/locked"))),
    "first save returned": Point(checkpoints.Checkpoints, "save", after=nth(SAVE_EVERY)),
    "2 ms into a save": into_second_save(0.002),
    "10 ms into a save": into_second_save(0.01),
    "30 ms into a save": into_second_save(0.03),
    "100 ms into a save": into_second_save(0.1),
    "300 ms into a save": into_second_save(0.3),
    "an item is written": Point(os, "rename", before=nth(1, ends("/tuned"))),
    "an item has its name": Point(os, "rename", after=nth(1, ends("/opt"))),
    "before the sums": Point(checksums, "write", before=nth(1)),
    "half of the sums": Point(checksums, "_digest", after=nth(5, lambda a: "tmp" in Path(a[0]).name)),
    "after the sums": Point(checksums, "write", after=nth(1)),
    "before the rename": Point(os, "rename", before=nth(2, of_step)),
    "after the rename": Point(os, "rename", after=nth(2, of_step)),
    "deletion begins": Point(os, "unlink", before=nth(1, in_background)),
    "deletion goes on": Point(os, "unlink", after=nth(5, in_background)),
    "deletion ends": Point(os, "rmdir", before=nth(6, in_background)),
    "an evaluation": Point(evaluation, "retrieve", before=nth(1)),
    "after an evaluation": Point(evaluation, "retrieve", after=nth(1)),
    "half a row of metrics": Point(metrics.Jsonl, "scalars", before=half_a_row),
    "between two saves": Point(Log, "step", before=nth(6)),
    "checking the sums": Point(checksums, "damage", after=nth(2)),
    "restoring": Point(checkpoints, "read", after=nth(1)),
    "the last save returned": Point(checkpoints.Checkpoints, "save", after=nth(1, lambda a: a[1] == ALL)),
}
EXPORTS = {
    "card of an export": Point(run_card, "model_card", after=nth(1)),
    "weights of an export": Point(model_folder, "_write_json", before=nth(1)),
    "processor of an export": Point(save, "save_processor", before=nth(1)),
    "sums of an export": Point(checksums, "write", before=nth(1)),
    "before an export has its name": Point(Path, "replace", before=nth(1, ends("/out"))),
    "after an export has its name": Point(Path, "replace", after=nth(1, ends("/out"))),
}


def digest(state):
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get((state.step, state.tuned, state.ema, state.opt))):
        sha256.update(np.asarray(leaf).tobytes())
    return sha256.hexdigest()


def observe(log):
    """Makes training log every batch and every step."""
    make_train_step, train_batches = build.make_train_step, inputs.train_batches

    def making(*args, **options):
        step = make_train_step(*args, **options)

        def observed(state, batch):
            state, values = step(state, batch)
            number, loss = jax.device_get((state.step, values["loss"]))
            log.step({"step": int(number), "state": digest(state), "loss": float(loss)})
            return state, values

        return observed

    class Seen:
        def __init__(self, batches, at):
            self.batches, self.at = batches, at

        def __iter__(self):
            return self

        def __next__(self):
            batch = next(self.batches)
            self.at += 1
            log.step({"batch": self.at, "ids": batch["index"].tolist()})
            return batch

        def __getattr__(self, name):
            return getattr(self.batches, name)

    build.make_train_step = making
    inputs.train_batches = lambda *args, start, **options: Seen(
        train_batches(*args, start=start, **options), start
    )


def forked(work, point=None):
    """Runs `work` in a process of its own, to be killed at `point`; returns its exit status as subprocess does."""
    child = os.fork()
    if not child:
        status = 1
        try:
            calls = point.patch() if point else []
            work()
            status = 0 if point is None else NEVER_MET if calls else NEVER_CALLED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def missed(name, point, status):
    """A line that says why a process was not killed at its point, or None if it was."""
    reasons = {NEVER_CALLED: "was never called", NEVER_MET: "was never called as the point wants it"}
    return f"{name}: patched {point.target} {reasons[status]}" if status in reasons else None


def training(config, workdir, log, point=None, seconds=None):
    """A run in a process of its own, killed at `point` or after `seconds`, unless it has ended by then."""

    def work():
        if seconds is not None:
            threading.Timer(seconds, die).start()
        observe(Log(log))
        loop.train(config, workdir)

    return forked(work, point)


def exporting(workdir, output, point=None):
    return forked(lambda: export.export(workdir, output), point)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(row):
    return ("batch", row["batch"]) if "batch" in row else ("step", row["step"])


def cut(config, folder, points, known):
    """Trains in folder/cut, killed at each point in turn, and then to the end; returns how each run went."""
    kills, before = [], 0
    for name, point in [*points.items(), ("to the end", None)]:
        since = time.monotonic()
        status = training(config, folder / "cut", folder / f"{name}.jsonl", point)
        seen = rows(folder / f"{name}.jsonl")
        steps = [row["step"] for row in seen if "step" in row]
        kill = {
            "point": name,
            "status": status,
            "missed": missed(name, point, status),
            "resumed_at": steps[0] - 1 if steps else None,
            "lost": before - (steps[0] - 1) if steps else None,
            "steps": len(steps),
            "differing": [row for row in seen if known.get(key(row)) != row][:2],
            "seconds": round(time.monotonic() - since, 1),
        }
        before = max(steps) if steps else before
        kills.append(kill)
        print(json.dumps(kill), file=sys.stderr, flush=True)
    return kills


def cut_exports(folder):
    """Exports folder/cut, killed at each point in turn, and then once more; returns how each export went."""
    results = []
    for name, point in EXPORTS.items():
        output = folder / "exports" / name / "out"
        status = exporting(folder / "cut", output, point)
        there = output.exists()
        whole = there and checksums.damage(output) is None
        again = "there" if whole else exporting(folder / "cut", output)
        result = {"point": name, "status": status, "missed": missed(name, point, status)}
        result |= {"there": there, "whole": whole, "again": again}
        result["sums"] = (output / checksums.NAME).read_text() if output.exists() else None
        results.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)
    return results


def numbers(workdir):
    """All that a run has measured, except what depends on the machine."""
    return {
        (row["step"], name, value)
        for row in rows(workdir / "metrics.jsonl")
        for name, value in row.items()
        if name not in TIMES
    }


def early(folder, count):
    """Makes `count` runs, each killed up to three times, at random within the first EARLY seconds, then finished."""
    forked(lambda: tiny.config(folder))
    config = tiny.config(folder, steps=8, save_every=2, eval_every=4, log_every=2, mesh__data=1)
    since = time.monotonic()
    training(config, folder / "straight", folder / "straight.jsonl")
    # Seconds of a run from the start, after one kill, and after two.
    longest = [min(EARLY, time.monotonic() - since)] * 3
    known = {key(row): row for row in rows(folder / "straight.jsonl")}
    rng, results = random.Random(0), []
    for number in range(count):
        log, moments, statuses = folder / f"{number}.jsonl", [], []
        for attempt in range(2 + number % 2):
            moments.append(round(rng.uniform(0, longest[attempt]), 3))
            since = time.monotonic()
            statuses.append(training(config, folder / "cut", log, seconds=moments[-1]))
            if statuses[-1] == 0:
                # Shorter than expected: already compiled, on an idle machine, or nearly done.
                longest[attempt] = time.monotonic() - since
                break
        statuses.append(training(config, folder / "cut", log))
        result = {
            "moments": moments,
            "statuses": statuses,
            "differing": [row for row in rows(log) if known.get(key(row)) != row][:2],
            "complete": {key(row) for row in rows(log)} == known.keys(),
            "metrics": numbers(folder / "straight") == numbers(folder / "cut"),
        }
        results.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)
        shutil.rmtree(folder / "cut")
    print(json.dumps(results))


def compared(folder, points, **changes):
    """Trains in folder/straight without a stop and in folder/cut with all these kills; returns how both went."""
    # In a child process: it computes, and then forking is no longer safe.
    forked(lambda: tiny.config(folder))
    saving = {"save_every": SAVE_EVERY, "keep": 2, "eval_every": SAVE_EVERY * 2, "log_every": 2}
    config = tiny.config(folder, mesh__data=1, **saving, **changes)
    straight = training(config, folder / "straight", folder / "straight.jsonl")
    known = {key(row): row for row in rows(folder / "straight.jsonl")}
    kills = cut(config, folder, points, known)
    return {
        "straight": straight,
        "observed": len(known),
        "kills": kills[:-1],
        "end": kills[-1],
        "metrics": numbers(folder / "straight") == numbers(folder / "cut"),
    }


def report(result):
    """Prints the result, and exits with the status of the first process that was not killed at its point."""
    print(json.dumps(result))
    if failed := [kill for kill in (*result["kills"], *result.get("exports", ())) if kill["missed"]]:
        print("\n".join(kill["missed"] for kill in failed), file=sys.stderr)
        sys.exit(failed[0]["status"])


def main(folder, steps, names):
    points = {name: POINTS[name] for name in names}
    result = compared(folder, points, steps=steps, data__augment="crop_flip", optim__ema=0.9)
    report(result | {"exports": cut_exports(folder) if len(names) > 4 else []})


if __name__ == "__main__":
    if sys.argv[2] == "early":
        early(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(POINTS))
