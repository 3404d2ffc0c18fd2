"""Search in an index of N vectors on this machine: seconds with and without the copy in memory, and the recall.

    python benchmarks/search.py --vectors 10000000 --width 256

The index is made first: unit vectors around the centres of clusters, in the files that `lit-jax embed` writes (10 GB
for the line above, removed at the end unless --folder names their place). Each query is a new member of a cluster.
`Index.open(..., screen=True)` reads all of it once; a search is timed from the embedded query to the ids of the
nearest. The recall is the share of the results of the plain exact search that are found. Memory is that of the
process without files that are mapped.
"""

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from lit_jax.inference.index import Index
from lit_jax.inference.index_files import MANIFEST, Shard, paths_of, write_shard
from lit_jax.inference.nearest import nearest
from lit_jax.parallel.sharding import make_mesh
from lit_jax.utils.console import table

SHARD = 8_192
ABOUT = {"model": "none", "fingerprint": "none", "source": "synthetic", "source_fingerprint": "none"}


def unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def members(centres: np.ndarray, count: int, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Unit vectors around centres that are drawn; their mean cosine to the centre is about 1 / sqrt(1 + noise^2)."""
    rows = rng.standard_normal((count, centres.shape[1]), np.float32)
    rows *= np.float32(noise / np.sqrt(centres.shape[1]))
    rows += centres[rng.integers(len(centres), size=count)]
    return unit(rows)


def write_index(folder: Path, centres: np.ndarray, vectors: int, noise: float) -> None:
    """An index without sums, which are not what is measured."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-vectors // SHARD)
    for number in range(shards):
        count = min(SHARD, vectors - number * SHARD)
        rows = members(centres, count, np.random.default_rng([1, number]), noise)
        ids = [f"{number * SHARD + i:09}" for i in range(count)]
        write_shard(paths_of(folder, "npy", number, shards), Shard(rows, ids))
    manifest = {"pictures": vectors, "width": centres.shape[1], "shard_size": SHARD, "format": "npy"}
    (folder / MANIFEST).write_text(json.dumps(ABOUT | manifest))


def memory() -> float:
    """GiB of this process that are no mapped file; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) / 2**20 if found else 0.0


def measure(folder: Path, queries: np.ndarray, top: int) -> dict[str, float]:
    """Figures of all queries, one after the other; the first one also compiles and is left out of the times."""
    mesh, start = make_mesh(), time.perf_counter()
    index = Index.open(folder, screen=True)
    found = {"open_seconds": time.perf_counter() - start}
    screen = index.screen
    assert screen is not None
    seconds, cpu, results = [], [], []
    for query in queries:
        start, busy = time.perf_counter(), time.process_time()
        _, numbers = screen.nearest(query[None], top, mesh)
        index.ids(numbers[0].tolist())
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
        results.append(numbers[0])
    found |= {"first_seconds": seconds[0], "seconds": float(np.median(seconds[1:])), "most": max(seconds[1:])}
    found |= {"cpu_seconds": float(np.median(cpu[1:])), "memory": memory()}
    found["candidates"] = float(np.mean([len(screen.candidates(query, top)) for query in queries]))
    start = time.perf_counter()
    _, wanted = nearest(queries, (shard.embeddings for shard in index), top, mesh)
    found["plain_seconds"] = time.perf_counter() - start
    hits = [len(np.intersect1d(a, b)) for a, b in zip(results, wanted, strict=True)]
    found["recall"] = sum(hits) / wanted.size
    found["same_order"] = float(np.mean([(a == b).all() for a, b in zip(results, wanted, strict=True)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--noise", type=float, default=0.7, help="distance of a member from its centre")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="of the index; it stays, and is not made again")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    centres = unit(np.random.default_rng(0).standard_normal((args.clusters, args.width), np.float32))
    queries = members(centres, args.queries, np.random.default_rng(2), args.noise)
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place)
        if not (folder / MANIFEST).is_file():
            write_index(folder, centres, args.vectors, args.noise)
        found = measure(folder, queries, args.top)
    rows = [
        ("vectors", f"{args.vectors:,} x {args.width}"),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("opening, s", f"{found['open_seconds']:.1f}"),
        ("first search, s", f"{found['first_seconds']:.2f}"),
        ("search, s: median / most", f"{found['seconds']:.2f} / {found['most']:.2f}"),
        ("search, s of CPU", f"{found['cpu_seconds']:.2f}"),
        ("vectors read and compared exactly", f"{found['candidates']:.0f}"),
        ("memory, GiB", f"{found['memory']:.2f}"),
        (f"plain search of {args.queries} queries, s", f"{found['plain_seconds']:.1f}"),
        (f"recall of the {args.top} nearest", f"{found['recall']:.4f}"),
        ("results in the same order", f"{found['same_order']:.0%}"),
    ]
    print(table(("search", "value"), rows))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
