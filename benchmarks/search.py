"""Search in an index of N vectors on this machine: seconds with and without the copy in memory, and recall.

    python benchmarks/search.py --vectors 10000000 --width 256
    python benchmarks/search.py --vectors 100000 --precision int8 --precision binary

The index is made first: unit vectors around the centres of clusters, in the files that `lit-jax embed` writes (10 GB
for the first line above, removed at the end unless --folder names their place). Each query is a new member of a
cluster. `Index.open(..., screen=True)` reads the whole index once; a search is timed from the embedded query to the ids
of the nearest. Recall is the share of the results of the plain exact search that are found. Memory is that of the
process without mapped files. With --precision, the same vectors are also stored as int8 or as signs beside the index,
and measured against the plain search in float32.
"""

import argparse
import json
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
from lit_jax.utils.cores import cores

SHARD = 8_192
ABOUT = {"model": "none", "fingerprint": "none", "source": "synthetic", "source_fingerprint": "none"}


def unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def members(centres: np.ndarray, count: int, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Unit vectors around randomly drawn centres; their mean cosine to these is about 1 / sqrt(1 + noise^2)."""
    rows = rng.standard_normal((count, centres.shape[1]), np.float32)
    rows *= np.float32(noise / np.sqrt(centres.shape[1]))
    rows += centres[rng.integers(len(centres), size=count)]
    return unit(rows)


def write_index(
    folder: Path, centres: np.ndarray, args: argparse.Namespace, precision: str = "float32"
) -> None:
    """Writes an index without checksums, which are not measured here."""
    vectors = args.vectors
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-vectors // SHARD)
    for number in range(shards):
        count = min(SHARD, vectors - number * SHARD)
        rows = members(centres, count, np.random.default_rng([1, number]), args.noise)
        ids = [f"{number * SHARD + i:09}" for i in range(count)]
        write_shard(paths_of(folder, "npy", number, shards, precision), Shard(rows, ids))
    manifest = {"pictures": vectors, "width": centres.shape[1], "shard_size": SHARD, "format": "npy"}
    manifest["precision"] = precision
    (folder / MANIFEST).write_text(json.dumps(ABOUT | manifest))


def memory() -> float:
    """GiB of this process without mapped files; 0 if the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) / 2**20 if found else 0.0


def megabytes(folder: Path, *kinds: str) -> float:
    """Megabytes of the files of these kinds."""
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(f"{kind}-*.npy")) / 1e6


def plain(folder: Path, queries: np.ndarray, top: int) -> tuple[np.ndarray, float]:
    """The numbers of the nearest vectors for all queries at once, and the seconds that it took."""
    start = time.perf_counter()
    _, found = nearest(queries, (shard.embeddings for shard in Index.open(folder)), top, make_mesh())
    return found, time.perf_counter() - start


def measure(folder: Path, queries: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Figures over all queries, one after the other; the first also compiles, so its time is reported apart."""
    top = wanted.shape[1]
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
    found["stored"] = megabytes(folder, "embeddings", "ranges", "signs")
    found["signs"] = megabytes(folder, "signs")
    hits = [len(np.intersect1d(a, b)) for a, b in zip(results, wanted, strict=True)]
    found["recall"] = sum(hits) / wanted.size
    found["same_order"] = float(np.mean([(a == b).all() for a, b in zip(results, wanted, strict=True)]))
    return found


ROWS = {
    "opening, s": lambda found: f"{found['open_seconds']:.1f}",
    "first search, s": lambda found: f"{found['first_seconds']:.2f}",
    "search, s: median / most": lambda found: f"{found['seconds']:.3f} / {found['most']:.3f}",
    "search, s of CPU": lambda found: f"{found['cpu_seconds']:.3f}",
    "vectors read and compared": lambda found: f"{found['candidates']:.0f}",
    "memory, GiB": lambda found: f"{found['memory']:.2f}",
    "stored, MB": lambda found: f"{found['stored']:.1f}",
    "of these signs, MB": lambda found: f"{found['signs']:.1f}",
    "recall of the nearest": lambda found: f"{found['recall']:.4f}",
    "results in the same order": lambda found: f"{found['same_order']:.0%}",
}


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
    parser.add_argument("--precision", action="append", choices=["int8", "binary"], default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    centres = unit(np.random.default_rng(0).standard_normal((args.clusters, args.width), np.float32))
    queries = members(centres, args.queries, np.random.default_rng(2), args.noise)
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place) / "float32"
        found: dict[str, dict[str, float]] = {}
        for precision in ("float32", *args.precision):
            here = folder if precision == "float32" else folder.with_name(f"{folder.name}-{precision}")
            if not (here / MANIFEST).is_file():
                write_index(here, centres, args, precision)
            if precision == "float32":
                wanted, seconds = plain(here, queries, args.top)
            found[precision] = measure(here, queries, wanted)
    print(f"{args.vectors:,} vectors of {args.width}, {cores()} cores")
    print(f"plain search of {args.queries} queries: {seconds:.1f} s\n")
    print(table(("search", *found), [(name, *map(form, found.values())) for name, form in ROWS.items()]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
