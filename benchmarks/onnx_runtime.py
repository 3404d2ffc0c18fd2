"""A model in ONNX Runtime beside JAX: recall, sizes of files, and the time that a tower takes.

    python benchmarks/onnx_runtime.py MODEL SOURCE
    python benchmarks/onnx_runtime.py quickstart_run/export tfds:quickstart_run/data/test --json FILE

MODEL is written anew with its towers in float32 and in 8 bits. Every picture and text of SOURCE is embedded three
times, from the same arrays: by `lit_jax.Embedder`, and by ONNX Runtime from either file. Hits are queries with a right
answer among the first five. Times are medians of whole calls on all cores, measured in turn in one process.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime

from lit_jax import Embedder
from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import size_of
from lit_jax.data.transforms.tokenizer import makes_mask
from lit_jax.evals.retrieval import retrieve
from lit_jax.hf import load
from lit_jax.hf.programs import towers
from lit_jax.tools.export import convert
from lit_jax.utils.console import table
from lit_jax.utils.cores import cores

FILES = {"float32": "", "int8": "_quantized"}
BATCHES = (1, 32)


class Session:
    """A file in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._names = [given.name for given in self._session.get_inputs()]

    def __call__(self, inputs: dict[str, Any]) -> np.ndarray:
        return self._session.run(None, {name: inputs[name] for name in self._names})[0]


def embedded(session: Session, batches: list[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([session(batch) for batch in batches])


def hits(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> dict[str, int]:
    found = retrieve(images, texts, owners)
    return {
        "image_to_text": int((found.image_rank <= 5).sum()),
        "text_to_image": int((found.text_rank <= 5).sum()),
    }


def batches(embedder: Embedder, source: Any, texts: list[str]) -> tuple[list[Any], list[Any]]:
    """What the processor makes of all pictures and texts, 32 at a time."""
    processor, rows = embedder.processor, range(0, len(source), 32)
    opened = [[open_image(source[i]["image"]) for i in range(r, min(r + 32, len(source)))] for r in rows]
    images = [dict(processor(images=part, return_tensors="np")) for part in opened]
    padding = True if makes_mask(processor.tokenizer) else "max_length"
    options = {"padding": padding, "truncation": True, "max_length": embedder.text_length}
    parts = [texts[r : r + 32] for r in range(0, len(texts), 32)]
    tokens = [dict(processor(text=part, return_tensors="np", **options)) for part in parts]
    return images, [{k: v.astype(np.int64) for k, v in part.items()} for part in tokens]


def milliseconds(call: Callable[[], Any], seconds: float) -> float:
    """The median time of the calls that fit into about `seconds`, after two that are not counted."""
    call(), call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def times(
    model: str, folder: Path, size: tuple[int, int], length: int, seconds: float
) -> list[dict[str, Any]]:
    """A row for each tower and batch size."""
    module, params = load.load(model)
    rows = []
    for program in towers.programs(module, params, with_mask=True, compute=module.compute, size=size):
        call, held = jax.jit(program.call), jax.device_put(program.params)
        sessions = {kind: Session(folder / f"{program.name}{end}.onnx") for kind, end in FILES.items()}
        for batch in BATCHES:
            inputs = program.example(batch, length)
            wide = {k: v.astype(np.int64) if v.dtype == np.int32 else v for k, v in inputs.items()}
            row: dict[str, Any] = {"tower": program.tower, "batch": batch}
            row["jax_ms"] = milliseconds(lambda: call(held, inputs).block_until_ready(), seconds)  # noqa: B023
            for kind, session in sessions.items():
                row[f"{kind}_ms"] = milliseconds(lambda: session(wide), seconds)  # noqa: B023
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or Hub id of a dual encoder")
    parser.add_argument("source", help="pairs to embed: folder:DIR ...")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timing (default: 5)")
    parser.add_argument("--length", type=int, default=16, help="tokens per text in the timings (default: 16)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    embedder, source = Embedder(options.model), open_source(options.source)
    texts, owners = captions_of(source)
    images, tokens = batches(embedder, source, texts)
    with tempfile.TemporaryDirectory() as place:
        folder = (
            convert(options.model, Path(place) / "model", layout="lit_jax", also=("onnx", "onnx_int8"))
            / "onnx"
        )
        vectors = {"JAX": (embedder.pictures(source), embedder.texts(texts))}
        for kind, end in FILES.items():
            sides = [Session(folder / f"{name}{end}.onnx") for name in towers.NAMES.values()]
            vectors[kind] = (embedded(sides[0], images), embedded(sides[1], tokens))
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        size = size_of(embedder.processor.image_processor)
        timed = times(options.model, folder, size, options.length, options.seconds)
    results = {}
    for kind, (pictures, captions) in vectors.items():
        apart = [
            float(np.abs(x - y).max()) for x, y in zip((pictures, captions), vectors["JAX"], strict=True)
        ]
        results[kind] = {"hits": hits(pictures, captions, owners), "difference": apart}
    print(
        f"{len(source)} pictures, {len(texts)} texts, {cores()} cores, onnxruntime {onnxruntime.__version__}\n"
    )
    rows = [
        (k, *map(str, r["hits"].values()), *(f"{x:.1e}" for x in r["difference"])) for k, r in results.items()
    ]
    print(table(("", "hits of images", "hits of texts", "images apart", "texts apart"), rows))
    print(table(("file", "MB"), [(name, f"{size / 1e6:.1f}") for name, size in sizes.items()]))
    columns = ("jax_ms", "float32_ms", "int8_ms")
    rows = [(r["tower"], str(r["batch"]), *(f"{r[name]:.2f}" for name in columns)) for r in timed]
    print(table(("tower", "batch", "JAX, ms", "float32, ms", "int8, ms"), rows))
    if options.json:
        found = {"cores": cores(), "results": results, "bytes": sizes, "times": timed}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
