"""Requests per second of `lit-jax serve`, one at a time and many at once, and whether its memory stays flat.

    python benchmarks/serve.py
    python benchmarks/serve.py --tiny

The model is a ViT-S/16 and a BERT of six layers and the same width, with random weights. The server is a process of its
own, and the clients are threads of this one. Both ways of asking are timed in turn, in --rounds rounds. The script
prints the medians, the 99th percentile of the latencies, and the server's memory after each fifth of --requests further
requests.
"""

import argparse
import base64
import concurrent.futures
import io
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from first_answer import write_processor
from loading import CONFIG, write_model
from PIL import Image

from lit_jax.utils.console import table
from lit_jax.utils.cores import cores

SIZE = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
DEPTHS = {"vision_config": 12, "text_config": 6}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Server:
    """`lit-jax serve` as a process."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        command = [sys.executable, "-m", "lit_jax", "serve", "--model", str(folder), "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--batch-size", str(batch_size)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.address = re.split(r"api", self._process.stdout.readline())[0]

    def ask(self, question: str, body: dict[str, Any]) -> float:
        """The seconds until the answer arrives."""
        start = time.perf_counter()
        request = urllib.request.Request(f"{self.address}api/{question}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=600) as answer:
            json.load(answer)
        return time.perf_counter() - start

    def memory(self) -> float:
        """MiB of the server and of its helper."""
        process = psutil.Process(self._process.pid)
        processes = [process, *process.children(recursive=True)]
        return sum(other.memory_info().rss for other in processes) / 2**20

    def close(self) -> None:
        """Ends the server."""
        self._process.terminate()
        self._process.wait()


def picture(number: int) -> str:
    """A JPEG of 320 x 240 pixels in base64."""
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def timed(server: Server, question: Callable[[int], dict[str, Any]], count: int, clients: int) -> list[float]:
    """The seconds of all requests together, followed by those of each."""
    bodies = [question(number) for number in range(count)]
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        each = [*threads.map(lambda body: server.ask("embed", body), bodies)]
    return [time.perf_counter() - start, *each]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--count", type=int, default=160, help="requests of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000, help="for the memory")
    parser.add_argument(
        "--tiny", action="store_true", help="a small model and few requests, to try the script"
    )
    args = parser.parse_args()
    if args.tiny:
        args.count, args.rounds, args.requests = 16, 1, 50
    with tempfile.TemporaryDirectory() as place:
        for tower, depth in DEPTHS.items():
            CONFIG[tower] |= SIZE | {"num_hidden_layers": depth} | (TINY if args.tiny else {})
        write_model(Path(place) / "model")
        write_processor(Path(place) / "model")
        begun = time.perf_counter()
        server = Server(Path(place) / "model", args.batch_size)
        print(f"ready after {time.perf_counter() - begun:.1f} s; {cores()} cores")
        try:
            report(server, args)
        finally:
            server.close()


def report(server: Server, args: argparse.Namespace) -> None:
    """Prints what was measured."""
    questions: dict[str, Callable[[int], dict[str, Any]]] = {
        "picture": lambda number: {"images": [picture(number)]},
        "text": lambda number: {"texts": [f"a picture of number {number}"]},
    }
    rows = []
    for name, question in questions.items():
        timed(server, question, 2 * args.batch_size, args.batch_size)  # This compiles.
        single, many = [], []
        for _ in range(args.rounds):
            single.append(timed(server, question, args.count // 4, 1))
            many.append(timed(server, question, args.count, 4 * args.batch_size))
        alone = [len(x[1:]) / x[0] for x in single]
        together = [len(x[1:]) / x[0] for x in many]
        slowest = [1000 * np.percentile([t for x in way for t in x[1:]], 99) for way in (single, many)]
        ratio = np.median([b / a for a, b in zip(alone, together, strict=True)])
        rows.append(
            (
                name,
                f"{np.median(alone):.1f}",
                f"{np.median(together):.1f}",
                f"{ratio:.2f}",
                f"{slowest[0]:.0f}",
                f"{slowest[1]:.0f}",
            )
        )
    heads = ("question", "one at a time /s", "at once /s", "ratio", "p99 ms alone", "p99 ms at once")
    print(table(heads, rows))
    memory = []
    for part in range(5):
        timed(server, questions["picture"], args.requests // 5, 4 * args.batch_size)
        memory.append(server.memory())
        print(f"after {(part + 1) * (args.requests // 5)} requests: {memory[-1]:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
