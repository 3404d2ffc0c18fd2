"""Pictures into an index with a ViT-B/16: seconds, and the number of cores in use.

    python benchmarks/embed.py --pictures 1000

`lit_jax.embed` runs in its own process on the 640x480 JPEGs of decode.py, with random weights in float32. The start
is the time until the first batch has its vectors, minus the time of a later batch: imports, reading the model and
compiling. The number of cores is CPU time over wall clock, of all threads of the process, after the first batch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decode import jpeg, photograph
from first_answer import write_processor
from loading import CONFIG, write_model

from lit_jax.utils.cores import cores

DIFFERENT = 24  # Different pictures; the others are the same files under other names.
TARGET = 1.7  # Cores out of 2 that are in use after the start.
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# The child's arguments: the time at which its process was started, the folder, and the pictures per batch.
CHILD = """
import json, sys, time
begun, folder, batch = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = []

def told(done, total):
    seen.append((done, time.time() - begun, time.process_time()))

import lit_jax
model = lit_jax.Embedder(folder + "/model", batch_size=batch)
lit_jax.embed("folder:" + folder + "/pictures", folder + "/index", model, progress=told)
print(json.dumps([seen[0], seen[-1]]))
"""


def write_pictures(folder: Path, number: int) -> None:
    """A `folder:` source without captions."""
    folder.mkdir()
    files = [jpeg(photograph(seed), 90) for seed in range(min(number, DIFFERENT))]
    rows = []
    for i in range(number):
        (folder / f"{i:06}.jpg").write_bytes(files[i % len(files)])
        rows.append(json.dumps({"file_name": f"{i:06}.jpg", "captions": []}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))


def measure(folder: Path, batch: int) -> dict[str, float]:
    """The time of the process: in total, for its start, and for the pictures after the start."""
    begun = str(time.time())
    command = [sys.executable, "-c", CHILD, begun, str(folder), str(batch)]
    settings = os.environ | {"LIT_JAX_TORCH": "0"}  # As the command sets it.
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=settings)
    (first, early, early_cpu), (last, wall, cpu) = json.loads(done.stdout)
    if first == last:
        sys.exit(f"all {last} pictures were in one batch: give more --pictures")
    rate = (last - first) / (wall - early)
    start = early - first / rate
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "start_seconds": start,
        "start_share": start / wall,
        "pictures_a_second": rate,
        "cores": (cpu - early_cpu) / (wall - early),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=1000, help="number of pictures (default: 1000)")
    parser.add_argument("--batch", type=int, default=64, help="pictures per batch (default: 64)")
    parser.add_argument(
        "--tiny", action="store_true", help="use towers of two small layers, to try the script"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not 0 < args.batch < args.pictures:
        parser.error("--batch must be positive and smaller than --pictures")
    if args.tiny:
        for tower in ("vision_config", "text_config"):
            CONFIG[tower] = CONFIG[tower] | SMALL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_processor(folder / "model")
        write_pictures(folder / "pictures", args.pictures)
        figures = measure(folder, args.batch)
    print(
        f"{args.pictures:,} pictures: {figures['seconds']:.1f} s, {figures['cpu_seconds']:.1f} s of CPU time"
    )
    print(f"start: {figures['start_seconds']:.1f} s, {figures['start_share']:.0%}")
    print(
        f"after it: {figures['pictures_a_second']:.1f} pictures/s on {figures['cores']:.2f} of {cores()} cores; "
        f"target {TARGET} of 2"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
