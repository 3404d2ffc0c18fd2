"""Retrieval with N x M embeddings: seconds and peak memory, on random unit rows with each text near its image.

    python benchmarks/retrieval.py
    python benchmarks/retrieval.py --images 20000 --texts 100000 --noise 1

Memory is the largest resident set of the process, including JAX and the embeddings. A text is its image row plus a
random vector whose length is `--noise` times that of the row; `--random` makes both sides independent, for ranks near
chance.
"""

import argparse
import resource
import sys
import time

import numpy as np

from lit_jax.evals.retrieval import retrieval
from lit_jax.utils.console import table
from lit_jax.utils.cores import cores


def embeddings(images: int, texts: int, width: int, noise: float | None) -> tuple[np.ndarray, ...]:
    """Unit rows of both sides, and the image of each text: every image has at least one text."""
    rng = np.random.default_rng(0)
    owner = np.concatenate([np.arange(images), rng.integers(images, size=texts - images)])

    def unit(rows: np.ndarray) -> np.ndarray:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    left = unit(rng.standard_normal((images, width), np.float32))
    right = unit(rng.standard_normal((texts, width), np.float32))
    if noise is not None:
        right *= np.float32(noise)
        for start in range(0, texts, 4096):
            right[start : start + 4096] += left[owner[start : start + 4096]]
        right = unit(right)
    return left, right, owner


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=100_000, help="at least as many as images")
    parser.add_argument("--width", type=int, default=256, help="dimensions of the shared space")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--noise", type=float, default=3.0)
    how.add_argument("--random", action="store_true", help="texts that are independent of their images")
    args = parser.parse_args()
    if args.texts < args.images:
        sys.exit("retrieval.py: there are fewer texts than images; every image needs at least one")

    left, right, owner = embeddings(args.images, args.texts, args.width, None if args.random else args.noise)
    start, cpu = time.perf_counter(), time.process_time()
    metrics = retrieval(left, right, owner)
    seconds, busy = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = [
        ("images x texts", f"{args.images:,} x {args.texts:,}"),
        ("cores", str(cores())),
        ("seconds", f"{seconds:.1f}"),
        ("seconds of CPU", f"{busy:.1f}"),
        ("peak memory, GiB", f"{peak:.2f}"),
        *((name, f"{value:.6g}") for name, value in metrics.items()),
    ]
    print(table(("retrieval", "value"), rows))


if __name__ == "__main__":
    main()
