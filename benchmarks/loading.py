"""Reading a ViT-B/16 + BERT-base dual encoder: time relative to reading the bytes, memory relative to the file size.

    python benchmarks/loading.py --repeats 7

Each measurement is a separate process, and the kinds are measured in turn. Only the call is timed, never an import.
Memory is the peak above that of a process that imports the same modules and reads nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# All other fields have HF's defaults, which are the base sizes.
VISION = {"model_type": "vit", "image_size": 224, "patch_size": 16}
TEXT = {"model_type": "bert"}
CONFIG = {
    "model_type": "vision-text-dual-encoder",
    "vision_config": VISION,
    "text_config": TEXT,
    "projection_dim": 512,
}
TARGETS = {"time": 1.5, "memory": 1.3}
KINDS = ("nothing", "bytes", "read_dual")
# The child's arguments are a kind and a folder; it prints wall clock and CPU seconds, and its peak memory in bytes.
CHILD = """
import json, re, sys, time
import safetensors.numpy
from lit_jax.hf import load, model_folder
from lit_jax.models.layers.spec import Compute

kind, folder = sys.argv[1:]
calls = {
    "nothing": lambda: None,
    "bytes": lambda: safetensors.numpy.load_file(folder + "/" + model_folder.WEIGHTS),
    "read_dual": lambda: load.read_dual(folder, Compute()),
}
start = time.perf_counter(), time.process_time()
kept = calls[kind]()
wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
# Not ru_maxrss, which a process inherits from its parent.
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps([wall, cpu, peak]))
"""


def write_model(folder: Path) -> int:
    """Writes a dual encoder with random weights; returns the size of its weight file in bytes."""
    import jax

    from lit_jax.hf import model_folder
    from lit_jax.models import dual_encoder

    config = dual_encoder.DualEncoderConfig.from_hf(CONFIG)
    module = dual_encoder.DualEncoder(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(rng.standard_normal(leaf.shape, np.float32)),
        dual_encoder.param_shapes(module),
    )
    model_folder.write(folder, config.to_hf(), dual_encoder.weights(config).to_hf(params))
    return (folder / model_folder.WEIGHTS).stat().st_size


def measure(kind: str, folder: Path) -> tuple[float, float, int]:
    """Wall clock and CPU seconds and peak bytes of one fresh process."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(folder)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall, cpu, peak = json.loads(child.stdout)
    return wall, cpu, peak


def report(runs: dict[str, list[tuple[float, float, int]]], size: int) -> dict[str, float]:
    """Medians of each kind and their ratios; "time" and "memory" have targets.

    On a shared machine, the ratios of CPU seconds ("cpu") and of the fastest runs ("fastest") are more reliable.
    """
    median = {kind: [statistics.median(column) for column in zip(*runs[kind], strict=True)] for kind in KINDS}
    nothing, plain, ours = (median[kind] for kind in KINDS)
    return {
        "weights_mb": round(size / 1e6, 1),
        "bytes_s": round(plain[0], 3),
        "read_dual_s": round(ours[0], 3),
        "cpu": round(ours[1] / plain[1], 2),
        "fastest": round(min(runs["read_dual"])[0] / min(runs["bytes"])[0], 2),
        "bytes_memory": round((plain[2] - nothing[2]) / size, 2),
        "time": round(ours[0] / plain[0], 2),
        "memory": round((ours[2] - nothing[2]) / size, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="processes of each kind (default: 7)")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; wanted at least 1")
    with tempfile.TemporaryDirectory() as name:
        size = write_model(Path(name))
        runs: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in KINDS}
        for _ in range(args.repeats):
            for kind in KINDS:
                runs[kind].append(measure(kind, Path(name)))
    result = report(runs, size)
    print(json.dumps(result, indent=2))
    for what, target in TARGETS.items():
        print(f"{what}: {result[what]} x, target {target}: {'met' if result[what] <= target else 'missed'}")


if __name__ == "__main__":
    main()
