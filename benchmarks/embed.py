"""Pictures into an index with a ViT-B/16: seconds, and how many cores are at work.

    python benchmarks/embed.py --pictures 1000

As `lit_jax.embed` does it, in a process of its own: JPEGs of 640x480 as decode.py makes them, random weights, float32.
The start is all until the first batch has its vectors, less what a later batch takes: imports, reading the model,
compiling. Cores are CPU time over wall clock, of every thread of the process, after the first batch.
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

DIFFERENT = 24  # Pictures; the others are the same files under other names.
TARGET = 1.7  # Cores after the start, of 2.
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# Run with the time at which the process was started, the folder, and the pictures of a batch.
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
    """What the process took: in all, for its start, and for the pictures after that."""
    begun = str(time.time())
    command = [sys.executable, "-c", CHILD, begun, str(folder), str(batch)]
    settings = os.environ | {"LIT_JAX_TORCH": "0"}  # As the command has it.
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=settings)
    (first, early, early_cpu), (last, wall, cpu) = json.loads(done.stdout)
    if first == last:
        sys.exit(f"all {last} pictures went through in one batch: give more --pictures")
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
    parser.add_argument("--pictures", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--batch", type=int, default=64, help="pictures of a batch (default: 64)")
    parser.add_argument("--tiny", action="store_true", help="towers of two small layers, to try the script")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not 0 < args.batch < args.pictures:
        parser.error("--pictures wants more than one --batch")
    if args.tiny:
        for tower in ("vision_config", "text_config"):
            CONFIG[tower] = CONFIG[tower] | SMALL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_processor(folder / "model")
        write_pictures(folder / "pictures", args.pictures)
        found = measure(folder, args.batch)
    print(f"{args.pictures:,} pictures: {found['seconds']:.1f} s, {found['cpu_seconds']:.1f} s of CPU time")
    print(f"start: {found['start_seconds']:.1f} s, {found['start_share']:.0%}")
    print(
        f"after it: {found['pictures_a_second']:.1f} pictures/s on {found['cores']:.2f} of {os.cpu_count()} cores; "
        f"wanted {TARGET} of 2"
    )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
