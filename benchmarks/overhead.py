"""What a run spends besides its steps: its start, the first step, a restart after SIGTERM, the host's part of a step.

    python benchmarks/overhead.py --repeats 3
    python benchmarks/overhead.py --config configs/clip_finetune.py:smoke --json overhead.json

Each repeat starts a run of the recipe in an empty folder, ends it by SIGTERM after --steps steps (status 42), and
restarts it for as many steps: without and with JAX's persistent compilation cache (JAX_COMPILATION_CACHE_DIR), which an
earlier start has filled. The seconds are medians over the repeats: "imports" is Python with its packages, "setup" reads
the towers or the checkpoint and makes the state, "inputs" opens the data, "evaluation" evaluates the model at the
start, and "step" is the first step. "tracing" and "compiling" are JAX's own figures for all programs.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PREEMPTED = 42  # The exit status of a run that saved and ended because it was told to.
PARTS = ("imports", "setup", "inputs", "evaluation", "step", "tracing", "compiling", "whole")
JAX_EVENTS = {"/jax/core/compile/backend_compile_duration": "compiling"} | dict.fromkeys(
    ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration"), "tracing"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=f"{ROOT / 'configs' / 'lit_b16_bert.py'}:smoke", help="a recipe")
    parser.add_argument("--steps", type=int, default=12, help="steps before SIGTERM (default: 12)")
    parser.add_argument("--repeats", type=int, default=3, help="of all (default: 3)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # The process of one start: workdir, marks.
    args = parser.parse_args()
    if args.run:
        run(args.config, args.steps, *map(Path, args.run))
        return
    starts: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.repeats):
        for name, found in measured(args.config, args.steps).items():
            starts.setdefault(name, []).append(found)
    medians = {
        name: {
            part: statistics.median(found[part] for found in founds)
            for part in (*PARTS, "host_ms", "device_ms")
        }
        for name, founds in starts.items()
    }
    print(table(medians))
    if args.json:
        args.json.write_text(json.dumps({"config": args.config, "repeats": args.repeats, "starts": medians}))


def measured(config: str, steps: int) -> dict[str, dict[str, float]]:
    """A start from nothing, and restarts without and with a compilation cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        found = {"start": started(config, steps, folder)}
        found["restart"] = started(config, steps, folder)
        started(config, steps, folder, cache)  # Fills the cache.
        found["restart, compiled before"] = started(config, steps, folder, cache)
    return found


def started(config: str, steps: int, folder: str, more: dict[str, str] | None = None) -> dict[str, float]:
    """Runs one process from its start to its last step; returns the seconds of its parts."""
    marks = Path(folder) / "marks.json"
    environment = os.environ | (more or {}) | {"LIT_JAX_STARTED": repr(time.time())}
    command = [sys.executable, __file__, "--config", config, "--steps", str(steps)]
    done = subprocess.run(
        [*command, "--run", f"{folder}/run", str(marks)], env=environment, capture_output=True, text=True
    )
    if done.returncode != PREEMPTED:
        sys.exit(f"a run ended with status {done.returncode} where {PREEMPTED} was wanted:\n{done.stderr}")
    found: dict[str, float] = json.loads(marks.read_text())
    return found


def run(config: str, steps: int, workdir: Path, marks: Path) -> None:
    """Trains in this process until `steps` steps are done, and notes the seconds of its parts."""
    import jax

    from lit_jax.__main__ import main as lit_jax
    from lit_jax.train import loop
    from lit_jax.train.step_timer import StepTimer

    found = dict.fromkeys(PARTS, 0.0)
    found["imports"] = time.time() - float(os.environ["LIT_JAX_STARTED"])
    open_setup, prepare, evaluate, read = loop.open_setup, loop.prepare, loop._Run.evaluate, StepTimer.read
    counted, ends = [0], [time.time()]

    def timed(part: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                if not counted[0]:
                    found[part] += time.perf_counter() - start
                ends[0] = time.time()

        return call

    def event(name: str, seconds: float, **_: Any) -> None:
        if not counted[0] and name in JAX_EVENTS:
            found[JAX_EVENTS[name]] += seconds

    def stepped(timer: StepTimer, begun: float, ended_before: float | None) -> None:
        counted[0] += 1
        if counted[0] == 2:  # The first step has ended now.
            assert ended_before is not None
            end = time.time() - (time.perf_counter() - ended_before)
            found["step"], found["whole"] = end - ends[0], end - float(os.environ["LIT_JAX_STARTED"])
        if counted[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        step(timer, begun, ended_before)

    def read_too(timer: StepTimer) -> dict[str, float]:
        row = read(timer)
        found.update({name: row[name] for name in ("host_ms", "device_ms") if name in row})
        marks.write_text(json.dumps(found))
        return row

    step = StepTimer.step
    loop.open_setup, loop.prepare = timed("setup", open_setup), timed("inputs", prepare)
    loop._Run.evaluate = timed("evaluation", evaluate)  # type: ignore[method-assign]
    StepTimer.step, StepTimer.read = stepped, read_too  # type: ignore[method-assign]
    jax.monitoring.register_event_duration_secs_listener(event)
    options = [
        "--config.steps=1000000",
        "--config.optim.schedule=constant",
        f"--config.log_every={steps // 2}",
    ]
    sys.argv = ["lit-jax", "train", "--config", config, "--workdir", str(workdir), *options]
    lit_jax()


def table(medians: dict[str, dict[str, float]]) -> str:
    """Markdown: seconds, with the share of the whole in parentheses."""
    lines = ["| | " + " | ".join(PARTS) + " | host, ms a step |", "| --- |" + " ---: |" * (len(PARTS) + 1)]
    for name, found in medians.items():
        cells = [f"{found[part]:.1f} ({found[part] / found['whole']:.0%})" for part in PARTS[:-1]]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['whole']:.1f} | {found['host_ms']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
