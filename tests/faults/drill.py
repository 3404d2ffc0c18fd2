"""A run that is killed at one moment after the other, each time by SIGKILL, and started again.

    python -m tests.faults.drill FOLDER STEPS [POINT ...]

Every run is a process of its own, forked from this one, which has imported all and computed nothing. What each saw
and reached is written down step by step: the records of the batch, and the sha256 of all of the state. Prints JSON.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import lit_jax.tools.export
import lit_jax.train.build
import lit_jax.train.loop
from lit_jax.hf import hub
from lit_jax.utils import checksums
from lit_jax.workdir import checkpoints, metrics
from tests import tiny

SAVE_EVERY = 4
ALL = 240  # Steps in which a run can meet every point.


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name, *, before=None, after=None):
    """Calls `before(arguments)` and `after(arguments)` around every call of `owner.name`."""
    plain = getattr(owner, name)

    def called(*args, **options):
        if before:
            before(args)
        found = plain(*args, **options)
        if after:
            after(args)
        return found

    setattr(owner, name, called)


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
    """Renaming to the name of a whole step."""
    return Path(args[1]).name.startswith("step_") and "tmp" not in Path(args[1]).name


def later(seconds):
    """Dies so long after the second save began, wherever the threads are by then."""
    left = [2]

    def start(args):
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(seconds, die).start()

    return lambda: around(checkpoints.ocp.CheckpointManager, "save", before=start)


def half_a_row(args):
    args[0]._file.write('{"step": 1')
    args[0]._file.flush()
    die()


def at_step(count):
    return lambda: around(Log, "step", before=nth(count))


def behind(args):
    """In another thread than training's: what is removed there is an old step."""
    return threading.current_thread() is not threading.main_thread()


class Log:
    """What a run saw, a line a step, on disk at once."""

    def __init__(self, path):
        self.file = path.open("a")

    def step(self, row):
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()


SAVE = (checkpoints.Checkpoints, "save")
# Name -> what is patched in the process that is to die. In the order in which one run can meet them.
POINTS = {
    "describing the model": lambda: around(
        Path, "write_text", before=nth(1, lambda a: a[0].name == "config.json")
    ),
    "before the recipe is there": lambda: around(Path, "replace", before=nth(1, ends("config.json"))),
    "first evaluation": lambda: around(lit_jax.train.loop, "retrieve", before=nth(1)),
    "first step": at_step(1),
    "writing locked": lambda: around(os, "rename", before=nth(1, ends("/locked"))),
    "locked is there": lambda: around(os, "rename", after=nth(1, ends("/locked"))),
    "first save returned": lambda: around(*SAVE, after=nth(SAVE_EVERY)),
    "2 ms into a save": later(0.002),
    "10 ms into a save": later(0.01),
    "30 ms into a save": later(0.03),
    "100 ms into a save": later(0.1),
    "300 ms into a save": later(0.3),
    "an item is written": lambda: around(os, "rename", before=nth(1, ends("/tuned"))),
    "an item has its name": lambda: around(os, "rename", after=nth(1, ends("/opt"))),
    "before the sums": lambda: around(checksums, "write", before=nth(1)),
    "half of the sums": lambda: around(
        checksums, "_digest", after=nth(5, lambda a: "tmp" in Path(a[0]).name)
    ),
    "after the sums": lambda: around(checksums, "write", after=nth(1)),
    "before the rename": lambda: around(os, "rename", before=nth(2, of_step)),
    "after the rename": lambda: around(os, "rename", after=nth(2, of_step)),
    "deletion begins": lambda: around(os, "unlink", before=nth(1, behind)),
    "deletion goes on": lambda: around(os, "unlink", after=nth(5, behind)),
    "deletion ends": lambda: around(os, "rmdir", before=nth(6, behind)),
    "an evaluation": lambda: around(lit_jax.train.loop, "retrieve", before=nth(1)),
    "after an evaluation": lambda: around(lit_jax.train.loop, "retrieve", after=nth(1)),
    "half a row of metrics": lambda: around(metrics.Jsonl, "scalars", before=half_a_row),
    "between two saves": at_step(6),
    "checking the sums": lambda: around(checksums, "damage", after=nth(2)),
    "restoring": lambda: around(checkpoints, "read", after=nth(1)),
    "the last save returned": lambda: around(*SAVE, after=nth(1, lambda a: a[1] == ALL)),
}
EXPORTS = {
    "weights of an export": lambda: around(hub, "_write_json", before=nth(1)),
    "processor of an export": lambda: around(lit_jax.tools.export, "model_card", before=nth(1)),
    "before an export has its name": lambda: around(Path, "replace", before=nth(1, ends("/out"))),
    "after an export has its name": lambda: around(Path, "replace", after=nth(1, ends("/out"))),
}


def digest(state):
    import jax
    import numpy as np

    found = hashlib.sha256()
    for leaf in jax.tree.leaves((state.step, state.tuned, state.opt)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def observe(log):
    """Has every step of training written down."""
    make, batches = lit_jax.train.loop.make_train_step, lit_jax.train.loop.train_batches

    def making(*args, **options):
        step = make(*args, **options)

        def observed(state, batch):
            state, values = step(state, batch)
            log.step({"step": int(state.step), "state": digest(state), "loss": float(values["loss"])})
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

    lit_jax.train.loop.make_train_step = making
    lit_jax.train.loop.train_batches = lambda *args, start, **options: Seen(
        batches(*args, start=start, **options), start
    )


def forked(work):
    """Runs `work` in a process of its own and returns how that ended, as subprocess does."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def training(config, workdir, log, patch=None):
    def work():
        observe(Log(log))
        if patch:
            patch()
        lit_jax.train.loop.train(config, workdir)

    return forked(work)


def exporting(workdir, output, patch=None):
    def work():
        if patch:
            patch()
        lit_jax.tools.export.export(workdir, output)

    return forked(work)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def reached(seen):
    return max((row["step"] for row in seen if "step" in row), default=0)


def main(folder, steps, names):
    folder = Path(folder)
    forked(lambda: tiny.config(folder))  # It computes, after which there is no forking.
    config = tiny.config(
        folder,
        steps=steps,
        save_every=SAVE_EVERY,
        keep=2,
        eval_every=SAVE_EVERY * 2,
        log_every=2,
        mesh__data=1,
        data__augment="crop_flip",
    )
    print("straight", training(config, folder / "straight", folder / "straight.jsonl"), file=sys.stderr)
    known = {}
    for row in rows(folder / "straight.jsonl"):
        known["batch" if "batch" in row else "step", row.get("batch", row.get("step"))] = row
    kills, before = [], 0
    for name in [*names, "to the end"]:
        seen, since = folder / f"{name}.jsonl", time.monotonic()
        status = training(config, folder / "cut", seen, POINTS.get(name))
        found = rows(seen)
        first = min((row["step"] for row in found if "step" in row), default=None)
        kill = {
            "point": name,
            "status": status,
            "resumed_at": None if first is None else first - 1,
            "lost": None if first is None else before - (first - 1),
            "steps": sum("step" in row for row in found),
            "differing": [
                row
                for row in found
                if known.get(("batch" if "batch" in row else "step", row.get("batch", row.get("step"))))
                != row
            ][:2],
            "seconds": round(time.monotonic() - since, 1),
        }
        before = max(reached(found), before if first is None else 0)
        kills.append(kill)
        print(json.dumps(kill), file=sys.stderr, flush=True)
    exports = []
    for name in EXPORTS if len(names) > 4 else ():
        output = folder / "exports" / name / "out"
        status = exporting(folder / "cut", output, EXPORTS[name])
        there = output.exists()
        whole = there and checksums.damage(output) is None
        again = "there" if whole else exporting(folder / "cut", output)
        exports.append({"point": name, "status": status, "there": there, "whole": whole, "again": again})
        exports[-1]["sums"] = (output / checksums.NAME).read_text() if output.exists() else None
        print(json.dumps(exports[-1]), file=sys.stderr, flush=True)
    metrics_of = [
        {
            (row["step"], name, value)
            for row in rows(folder / run / "metrics.jsonl")
            for name, value in row.items()
            if name not in ("pairs/s", "data_wait", "host_gb", "device_gb")  # Of the machine.
        }
        for run in ("straight", "cut")
    ]
    result = {
        "kills": kills[:-1],
        "end": kills[-1],
        "exports": exports,
        "metrics": metrics_of[0] == metrics_of[1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] or list(POINTS))
