"""Training of two heads on cached features of two frozen towers, beside the matrix products that it needs.

    python benchmarks/frozen.py --pairs 1000000 --captions 4 --batch 32768
    python benchmarks/frozen.py --pairs 20000 --batch 2048

Features are random numbers in memory-mapped files, like the caches of a run: 768 per picture and 1024 per caption. Both
heads are MLPs with a skip connection. Batches come from `train_batches`, as in `lit-jax train`, and the step is that of
a config. "products" is the time that NumPy takes for the same matrix products, with as many threads: those of both
heads, forward and backward, and those of the loss, whose logits are computed twice, since they are not kept. Each logit
is the sum of three products (`lit_jax/losses/exact.py`); "plain" is the time with only one of them, as in a loss that
rounds its similarities to float32. The memory is the process's own, without the pages of the files.
"""

import argparse
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_jax.config import TrainConfig, read_config
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.prefetch import DevicePrefetcher
from lit_jax.data.train_batches import Reading, TrainTransforms, train_batches
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.heads import NAMES
from lit_jax.parallel.sharding import put_batch
from lit_jax.tools.plan.parameters import config_of
from lit_jax.train.build import build_training, compute_of, mesh_of
from lit_jax.train.cache_draft import Draft
from lit_jax.train.cached_rows import open_rows
from lit_jax.train.state import init_state
from lit_jax.utils.console import table

WIDTHS = {"vision": 768, "text": 1024}
BLOCK = 1 << 14  # Rows that are made at once.
# This tower is not used, but it has to exist.
TOWER = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8}


class Nothing:
    """A source of `count` records; what is cached is not read from it."""

    spec = "random features"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def train_config(options: argparse.Namespace) -> TrainConfig:
    vision = {
        "model_type": "vit",
        "hidden_size": WIDTHS["vision"],
        "image_size": 32,
        "patch_size": 32,
        **TOWER,
    }
    text = {"model_type": "bert", "hidden_size": WIDTHS["text"], "vocab_size": 16, **TOWER}
    head: dict[str, Any] = {"hidden": (options.hidden,), "dropout": 0.2, "skip": True}
    return read_config(
        {
            "steps": options.steps + 1,
            "batch_size": options.batch,
            "loss_chunk": min(options.chunk, options.batch),
            "micro_batch": options.micro_batch if options.micro_batch < options.batch else 0,
            "cache": ("vision", "text"),
            "model": {
                **{"vision": "", "text": "", "lock_towers": "uu"},
                "lock_rules": (("vision/.*", "lock"), ("text/.*", "lock")),
                **{
                    "vision_config": vision,
                    "text_config": text,
                    "vision_pooling": "cls",
                    "text_pooling": "mean",
                },
                **{"vision_head": "mlp", "text_head": "mlp"},
                **{"vision_head_config": head, "text_head_config": head},
            },
            "data": {"train": "shapes:64/train"},
        }
    )


def written(folder: Path, name: str, rows: int, dtype: str) -> np.ndarray:
    """Random features in a file."""
    rng, path = np.random.default_rng(len(name)), folder / f"{name}.npy"
    with Draft(path, dtype) as draft:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            draft.append(rng.standard_normal((count, WIDTHS[name]), np.float32), count)
        draft.finish()
    return open_rows(path, rows)


def batches_of(folder: Path, options: argparse.Namespace) -> Any:
    images = written(folder, "vision", options.pairs, options.dtype)
    count = options.pairs * options.captions
    offsets = np.arange(0, count + 1, options.captions)
    texts = PooledTexts(
        written(folder, "text", count, options.dtype), offsets, np.arange(count, dtype=np.int32)
    )

    def tokenize(texts: Any) -> Any:
        raise AssertionError("captions are cached")

    transforms = TrainTransforms(None, tokenize, captions=texts)
    source: Any = Nothing(options.pairs)
    return train_batches(source, transforms, Reading(), batch_size=options.batch, seed=0, pooled=images)


def trained(options: argparse.Namespace, folder: Path) -> list[float]:
    """Seconds of each step after the first, which compiles."""
    config = train_config(options)
    mesh = mesh_of(config)
    module = DualEncoder(config_of(config), dataclasses.replace(compute_of(config.model), mesh=mesh))
    params = jax.tree.map(np.asarray, dual_encoder.init_params(module, 0))
    training = build_training(config, module, params, mesh)
    state = init_state(params, training.locks, training.tx, mesh, on_host=config.cached)
    locked = {name: part for name, part in state.locked.items() if name not in WIDTHS}
    state = dataclasses.replace(state, locked=locked)
    batches = batches_of(folder, options)
    seconds: list[float] = []
    put: Callable[[Any], Any] = lambda batch: put_batch(batch, mesh)  # noqa: E731
    feed = DevicePrefetcher(batches, put, options.steps + 1)
    for batch in feed:
        since = time.perf_counter()
        state, metrics = training.step(state, batch)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - since)
        print(f"step of {options.batch} pairs: {seconds[-1]:.2f} s, loss {loss:.4f}", flush=True)
    feed.close()
    batches.close()
    return seconds[1:]


def products(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds that NumPy takes for the matrix products of a step, and for those of a step with a plain loss."""
    rng = np.random.default_rng(0)
    width, heads, once, twice, slopes = 512, 0.0, 0.0, 0.0, 0.0

    def random(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32)

    def timed(a: np.ndarray, b: np.ndarray) -> float:
        since = time.perf_counter()
        a @ b
        return time.perf_counter() - since

    for features in WIDTHS.values():
        for inputs, outputs, is_first in (
            (features, options.hidden, True),
            (options.hidden, width, False),
            (features, width, True),
        ):
            x, w, y = random(options.batch, inputs), random(inputs, outputs), random(options.batch, outputs)
            heads += timed(x, w) + timed(x.T, y) + (0 if is_first else timed(y, w.T))
    images, texts = random(options.batch, 2 * width), random(options.batch, 2 * width)
    high = np.ascontiguousarray(images[:, :width])
    for start in range(0, options.batch, options.chunk):
        both = texts[start : start + options.chunk]
        part = np.ascontiguousarray(both[:, :width])
        slope = random(options.batch, len(part))
        once += 2 * timed(high, part.T)
        twice += 2 * timed(images, both.T)
        slopes += timed(slope, part) + timed(slope.T, high)
    return heads + once + twice + slopes, heads + once + slopes


class Memory(threading.Thread):
    """Watches the process's own memory, without pages of files; `most` is in GiB."""

    most = 0.0

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            (size,) = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            self.most = max(self.most, int(size) / 2**20)
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20_000, help="pictures (default: 20,000)")
    parser.add_argument("--captions", type=int, default=4, help="captions of each (default: 4)")
    parser.add_argument("--batch", type=int, default=2048, help="pairs of a step (default: 2,048)")
    parser.add_argument("--chunk", type=int, default=256, help="columns of logits at a time (default: 256)")
    parser.add_argument(
        "--micro-batch", type=int, default=4096, help="pairs in the heads at once (default: 4,096)"
    )
    parser.add_argument(
        "--hidden", type=int, default=1536, help="width of the hidden layers (default: 1,536)"
    )
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed (default: 3)")
    parser.add_argument("--dtype", default="float16", help="of the files (default: float16)")
    parser.add_argument("--folder", help="where the files go, some GB (default: a temporary folder)")
    options = parser.parse_args()
    memory = Memory(daemon=True)
    memory.start()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds = trained(options, Path(folder))
    step, most = float(np.median(seconds)), memory.most
    alone, plain = np.median([products(options) for _ in range(2)], axis=0).tolist()
    rows = [
        ("pairs a second", f"{options.batch / step:.0f}"),
        ("pairs a second of the products alone", f"{options.batch / alone:.0f}"),
        ("share", f"{alone / step:.2f}"),
        ("pairs a second of the products with a plain loss", f"{options.batch / plain:.0f}"),
        ("share", f"{plain / step:.2f}"),
        ("GiB of the process at most", f"{most:.2f}"),
    ]
    print(table(("", f"{options.pairs} pictures, batches of {options.batch}"), rows))


if __name__ == "__main__":
    assert set(NAMES) == set(WIDTHS)
    main()
