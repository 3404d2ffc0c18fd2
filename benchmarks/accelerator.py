"""Train steps on one GPU in bfloat16: lit_jax beside Hugging Face's PyTorch model, ViT-B/16 + BERT-base.

    python benchmarks/accelerator.py --unroll 12 --json found.json
    python benchmarks/accelerator.py --only lit_jax --kind cached --batch 512 --batch 4096 --remat narrow --profile

"locked" trains only the text tower, "unlocked" trains both, and "cached" trains with cached image outputs (lit_jax
only); "image" and "text" embed. Each side has its own process, so that its peak memory is its own too, and the two are
measured in turn, --rounds times. PyTorch is compiled and uses SDPA, fused AdamW and autocast. MFU is the model's
arithmetic, counted once for both sides, relative to --peak. A process takes 75 to 95 s to start on 8 cores; --json is
written after each kind, so that an interrupted call keeps what is done.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from shutil import which
from typing import Any

from side_by_side import SIDES, configs

STEPS = 20  # Per measurement.
READY = "ready"  # Printed by a process that is warmed up.
PASSES = {  # Passes through the image and the text tower; a forward pass counts one, a backward pass two.
    "locked": (1, 3),
    "unlocked": (3, 3),
    "cached": (0, 3),
    "image": (1, 0),
    "text": (0, 1),
}


def arithmetic(kind: str, length: int, tiny: bool) -> float:
    """Floating-point operations of a step per pair: matrix products only, as often as PASSES says."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")  # This process only counts; it leaves the GPU to its children.
    from lit_jax.models.dual_encoder import MODEL_TYPE, DualEncoder, DualEncoderConfig, param_shapes
    from lit_jax.tools.plan.flops import flops_of

    vision, text = configs(tiny)
    towers = {"vision_config": {"model_type": "vit", **vision}, "text_config": {"model_type": "bert", **text}}
    module = DualEncoder(DualEncoderConfig.from_hf({"model_type": MODEL_TYPE, **towers}))
    params, size = param_shapes(module), vision["image_size"]
    texts = {"input_ids": jnp.zeros((1, length), jnp.int32)}
    images = flops_of(
        lambda p, x: module.apply({"params": p}, images=x)[0], params, jnp.zeros((1, size, size, 3))
    )
    words = flops_of(lambda p, x: module.apply({"params": p}, texts=x)[1], params, texts)
    return images * PASSES[kind][0] + words * PASSES[kind][1]


def work(options: argparse.Namespace) -> None:
    """A process that warms up and then measures one case, once for each line that it reads."""
    how: dict[str, Any] = {"dtype": "bfloat16"}
    if options.work == "lit_jax":
        how |= {"remat": options.remat, "attention": options.attention, "unroll": options.unroll}
    else:
        how |= {"device": "cuda", "compiled": not options.eager}
    start = time.perf_counter()
    run, wait, peak = SIDES[options.work](
        options.kind[0], options.batch[0], options.length, options.tiny, **how
    )
    for _ in range(3):
        run()
    wait()
    first = time.perf_counter() - start
    if options.profile and options.work == "lit_jax":
        print(profile(run, wait), file=sys.stderr)
    print(READY, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            run()
        wait()
        seconds = (time.perf_counter() - start) / STEPS
        print(json.dumps({"seconds": seconds, "bytes": peak(), "first_seconds": first}), flush=True)


def profile(run: Callable[[], Any], wait: Callable[[], Any]) -> str:
    """A table of the kernels in which three runs of lit_jax spend their time, the longest first."""
    import jax

    from lit_jax.utils.console import table

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(3):
                run()
            wait()
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    streams = {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name" and "Stream" in e["args"]["name"]
    }
    spent: Counter[str] = Counter()
    often: Counter[str] = Counter()
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            spent[event["name"][:60]] += event["dur"] / 3e3
            often[event["name"][:60]] += 1
    rows = [
        (name, str(often[name] // 3), f"{ms:.2f}", f"{ms / spent.total():.1%}")
        for name, ms in spent.most_common(16)
    ]
    return table(("kernel", "times per step", "ms per step", "share"), rows)


class Case:
    """The process of one case. `runs` holds its measurements; none if it failed, for instance for lack of memory."""

    def __init__(self, side: str, kind: str, batch: int, arguments: list[str]) -> None:
        self.side, self.kind, self.batch = side, kind, batch
        self.runs: list[dict[str, float]] = []
        asked = ["--work", side, "--kind", kind, "--batch", str(batch), *arguments]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *asked],
            # Another process uses the same GPU.
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.alive = self.read() == READY

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def measure(self) -> None:
        if not self.alive:
            return
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        line = self.read()
        self.alive = bool(line)
        if line:
            self.runs.append(json.loads(line))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        if not self.alive:
            print(f"{self.side}, {self.kind}, {self.batch} pairs: failed, as told above", file=sys.stderr)


def measured(kind: str, batch: int, options: argparse.Namespace, arguments: list[str]) -> list[Case]:
    """Both sides of one kind, warmed up one after the other and then measured in turn."""
    sides = [side for side in options.only or SIDES if kind != "cached" or side == "lit_jax"]
    cases = [Case(side, kind, batch, arguments) for side in sides]
    for _ in range(options.rounds):
        for case in cases:
            case.measure()
    for case in cases:
        case.close()
    return [case for case in cases if case.runs]


def machine() -> dict[str, str]:
    """The GPU and the versions of the software that uses it."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = subprocess.run(asked, capture_output=True, text=True).stdout.strip() if which(asked[0]) else "none"
    return {"gpu": gpu} | {name: version(name) for name in ("jax", "torch", "transformers")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, action="append", help="pairs (default: 512; may be repeated)")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text (default: 32)")
    parser.add_argument(
        "--kind", choices=PASSES, action="append", help="case (default: all; may be repeated)"
    )
    parser.add_argument("--only", choices=SIDES, action="append", help="measure only this side")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case (default: 5)")
    parser.add_argument(
        "--remat",
        default="products",
        help="remat of lit_jax: none, products, narrow or full (default: products)",
    )
    parser.add_argument(
        "--attention", default="auto", help="attention of lit_jax: auto, cudnn or xla (default: auto)"
    )
    parser.add_argument(
        "--unroll", type=int, default=1, help="layers of lit_jax per turn of the loop (default: 1)"
    )
    parser.add_argument("--eager", action="store_true", help="do not compile PyTorch")
    parser.add_argument(
        "--peak", type=float, default=989e12, help="FLOP/s of the GPU (default: 989e12, an H100's)"
    )
    parser.add_argument("--profile", action="store_true", help="show the time of each of lit_jax's kernels")
    parser.add_argument(
        "--tiny", action="store_true", help="use towers of two narrow layers, to try the script"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.batch, options.kind = options.batch or [512], options.kind or list(PASSES)
    if options.work:
        work(options)
        return
    from lit_jax.utils.console import table

    own = [f"--{name}={getattr(options, name)}" for name in ("length", "remat", "attention", "unroll")]
    own += [f"--{name}" for name in ("eager", "tiny", "profile") if getattr(options, name)]
    rows: list[tuple[str, ...]] = []
    found: dict[str, Any] = {"machine": machine(), "steps": STEPS, "options": own, "results": []}
    for kind, batch in product(options.kind, options.batch):
        for case in measured(kind, batch, options, own):
            seconds = statistics.median(run["seconds"] for run in case.runs)
            rate = arithmetic(kind, options.length, options.tiny) * batch / seconds
            peak, first = case.runs[-1]["bytes"], case.runs[0]["first_seconds"]
            who = {"kind": kind, "batch": batch, "side": case.side}
            found["results"].append(
                {**who, "runs": case.runs, "seconds": seconds, "flops": rate, "bytes": peak}
            )
            rows.append(
                (
                    kind,
                    f"{batch:,}",
                    case.side,
                    f"{seconds * 1e3:.1f}",
                    f"{batch / seconds:,.0f}",
                    f"{rate / 1e12:.0f}",
                    f"{rate / options.peak:.0%}",
                    f"{peak / 2**30:.1f}",
                    f"{first:.0f}",
                )
            )
        if options.json:  # After each kind, in case the next one takes too long.
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    head = ("", "pairs", "side", "ms per step", "pairs/s", "TFLOP/s", "MFU", "GiB", "s to start")
    print(table(head, rows))


if __name__ == "__main__":
    main()
