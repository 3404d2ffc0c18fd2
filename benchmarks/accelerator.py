"""Train steps on one GPU in bfloat16: lit_jax beside Hugging Face's PyTorch model, ViT-B/16 + BERT-base.

    python benchmarks/accelerator.py --batch 512 --batch 4096
    python benchmarks/accelerator.py --only lit_jax --remat narrow --attention xla

"locked" trains only the text tower, "unlocked" trains both, and "cached" trains with cached image outputs (lit_jax
only); "image" and "text" embed. Each case runs in its own process, so that its peak memory is its own too. The cases
are measured in turn, --rounds times. PyTorch is compiled and uses SDPA, fused AdamW and autocast. MFU is the model's
arithmetic, counted once for both sides, relative to --peak.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from side_by_side import SIDES, configs

STEPS = 20  # Per measurement.
PASSES = {  # Through the image and the text tower: a forward pass counts one, a backward pass two.
    "locked": (1, 3),
    "unlocked": (3, 3),
    "cached": (0, 3),
    "image": (1, 0),
    "text": (0, 1),
}


def arithmetic(kind: str, length: int, tiny: bool) -> float:
    """Floating-point operations of a step per pair: those of matrix products, multiplied as in PASSES."""
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


def work(options: argparse.Namespace) -> dict[str, float]:
    """One measurement of one case: seconds per step and peak memory."""
    how: dict[str, Any] = {"dtype": "bfloat16"}
    if options.work == "lit_jax":
        how |= {"remat": options.remat, "attention": options.attention, "unroll": options.unroll}
    else:
        how |= {"device": "cuda", "compiled": not options.eager}
    run, wait, peak = SIDES[options.work](
        options.kind[0], options.batch[0], options.length, options.tiny, **how
    )
    start = time.perf_counter()
    for _ in range(3):
        run()
    wait()
    first = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(STEPS):
            run()
        wait()
        times.append((time.perf_counter() - start) / STEPS)
    if options.profile:
        print(profile(run, wait), file=sys.stderr)
    return {"seconds": statistics.median(times), "bytes": peak(), "first_seconds": first}


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


def measured(side: str, kind: str, batch: int, arguments: list[str]) -> dict[str, float] | None:
    """The same in a child process; None if it failed, for instance because of a lack of memory."""
    asked = ["--work", side, "--kind", kind, "--batch", str(batch), *arguments]
    done = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        print(f"{side}, {kind}, {batch} pairs: {said[0][:300]}", file=sys.stderr)
        return None
    if "--profile" in arguments:
        print(done.stderr, file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, action="append", help="pairs (default: 512; may be repeated)")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text (default: 32)")
    parser.add_argument("--kind", choices=PASSES, action="append", help="case (default: locked and unlocked)")
    parser.add_argument("--only", choices=SIDES, action="append", help="measure only this side")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each case (default: 2)")
    parser.add_argument(
        "--remat", default="none", help="remat of lit_jax: none, products, narrow or full (default: none)"
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
    options.batch = options.batch or [512]
    options.kind = options.kind or ["locked", "unlocked"]
    if options.work:
        print(json.dumps(work(options)))
        return
    from lit_jax.utils.console import table

    own = [f"--{name}={getattr(options, name)}" for name in ("length", "remat", "attention", "unroll")]
    own += [f"--{name}" for name in ("eager", "tiny", "profile") if getattr(options, name)]
    cases = [
        case
        for case in product(options.kind, options.batch, options.only or SIDES)
        if case[0] != "cached" or case[2] == "lit_jax"
    ]
    rounds = [
        [measured(side, kind, batch, own) for kind, batch, side in cases] for _ in range(options.rounds)
    ]
    rows, results = [], []
    for (kind, batch, side), runs in zip(cases, zip(*rounds, strict=True), strict=True):
        whole = [run for run in runs if run]
        if not whole:
            continue
        seconds = statistics.median(run["seconds"] for run in whole)
        rate = arithmetic(kind, options.length, options.tiny) * batch / seconds
        peak = max(run["bytes"] for run in whole)
        results.append(
            {"kind": kind, "batch": batch, "side": side, "runs": whole, "flops": rate, "bytes": peak}
        )
        rows.append(
            (
                kind,
                f"{batch:,}",
                side,
                f"{seconds * 1e3:.1f}",
                f"{batch / seconds:,.0f}",
                f"{rate / 1e12:.0f}",
                f"{rate / options.peak:.0%}",
                f"{peak / 2**30:.1f}",
                f"{whole[0]['first_seconds']:.0f}",
            )
        )
    head = ("", "pairs", "side", "ms per step", "pairs/s", "TFLOP/s", "MFU", "GiB", "s to start")
    print(table(head, rows))
    if options.json:
        options.json.write_text(
            json.dumps({"steps": STEPS, "options": own, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
