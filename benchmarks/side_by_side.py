"""lit_jax and Hugging Face's PyTorch model on the same work, measured in turn. The other benchmarks import this file.

Each side has its own worker process, so that neither its threads nor its allocator disturb the other; the side that is
not measured sleeps on a pipe. Both see the same cores and use one thread per core. Weights are random.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# For --tiny.
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PEAK_LR = 1e-5


class Work(NamedTuple):
    """The work to measure. `run` may return before the device is done, `wait` does not; `peak` is device memory."""

    run: Callable[[], Any]
    wait: Callable[[], Any]
    peak: Callable[[], int]  # In bytes.


def configs(tiny: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """ViT-B/16 and BERT-base with transformers' defaults except for dropout, which is off as in the configs."""
    vision = {"image_size": 224, "patch_size": 16} | ({**TINY, "image_size": 32} if tiny else {})
    text = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | (TINY if tiny else {})
    return vision, text


def inputs(batch: int, length: int, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pictures, uint8 [B S S 3], and texts that fill at least half of `length`."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    ids = rng.integers(1000, 30_000, (batch, length), np.int32)
    mask = np.arange(length)[None] < rng.integers((length + 1) // 2, length + 1, batch)[:, None]
    texts = {"input_ids": ids, "attention_mask": mask.astype(np.int32), "token_type_ids": np.zeros_like(ids)}
    return images, texts


def ours(
    kind: str,
    batch: int,
    length: int,
    tiny: bool,
    *,
    dtype: str = "float32",
    remat: str = "products",
    attention: Any = "auto",
    unroll: int = 1,
) -> Work:
    """lit_jax's own train step or embed step, by default with the settings that a config has on a CPU."""
    import jax

    from lit_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
    from lit_jax.data.transforms.normalize import PixelNormalizer
    from lit_jax.inference.embed_step import make_embed_step
    from lit_jax.models import dual_encoder
    from lit_jax.models.layers.spec import Compute
    from lit_jax.parallel.sharding import make_mesh, put_batch
    from lit_jax.train.build import build_training
    from lit_jax.train.state import init_state

    vision, text = configs(tiny)
    towers = dual_encoder.DualEncoderConfig.from_hf(
        {
            "model_type": dual_encoder.MODEL_TYPE,
            "vision_config": {"model_type": "vit", **vision},
            "text_config": {"model_type": "bert", **text},
        }
    )
    mesh = make_mesh()
    compute = Compute(dtype=dtype, remat=remat, attention=attention, unroll=unroll, mesh=mesh)
    module = dual_encoder.DualEncoder(towers, compute)
    params = dual_encoder.init_params(module, 0)
    pixels = PixelNormalizer(vision["image_size"], (0.5,) * 3, (0.5,) * 3)
    images, texts = inputs(batch, length, vision["image_size"])
    placed: dict[str, Any] = put_batch({"images": images, "texts": texts}, mesh)
    last: Any = None

    def work(run: Callable[[], Any]) -> Work:
        def keep() -> None:
            nonlocal last
            last = run()

        device = jax.devices()[0]
        return Work(
            keep,
            lambda: jax.block_until_ready(last),
            lambda: (device.memory_stats() or {}).get("peak_bytes_in_use", 0),
        )

    if kind in ("image", "text"):
        embed = make_embed_step(module, mesh, pixels, dtype)
        if kind == "image":
            return work(partial(embed.images, params, placed["images"]))
        return work(partial(embed.texts, params, placed["texts"]))
    config = TrainConfig(
        steps=1_000_000,
        batch_size=batch,
        model=ModelConfig("", "", lock_towers="UU" if kind == "unlocked" else "LU", locked_dtype=dtype),
        data=DataConfig(""),
        optim=OptimConfig(peak_lr=PEAK_LR, schedule="constant"),
    )
    training = build_training(config, module, params, mesh, pixels)
    state = init_state(params, training.locks, training.tx, mesh, training.locked_dtype, training.layout)
    if kind == "cached":
        pooled = make_embed_step(module, mesh, pixels).pool(params, placed.pop("images"))
        placed["pooled_images"] = jax.block_until_ready(pooled)
    del params  # The state has its own copy.

    def run() -> Any:
        nonlocal state
        state, metrics = training.step(state, placed)
        return state, metrics

    return work(run)


def huggingface(
    kind: str,
    batch: int,
    length: int,
    tiny: bool,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
) -> Work:
    """VisionTextDualEncoderModel with SDPA, and fused AdamW, which is faster than PyTorch's default.

    A dtype other than float32 uses autocast, and a locked tower is stored in it.
    """
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    vision, text = configs(tiny)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**vision), transformers.BertConfig(**text)
    )
    model = transformers.VisionTextDualEncoderModel(config).to(device)
    images, texts = inputs(batch, length, vision["image_size"])
    scaled = ((torch.from_numpy(images).to(device) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    pictures = scaled.contiguous()
    del scaled
    tokens = {name: torch.from_numpy(array).long().to(device) for name, array in texts.items()}
    lower = torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    peak = torch.cuda.max_memory_allocated
    if kind in ("image", "text"):
        model.eval()
        features = model.get_image_features if kind == "image" else model.get_text_features
        embed = torch.compile(features) if compiled else features
        asked = {"pixel_values": pictures} if kind == "image" else tokens

        @torch.inference_mode()
        def forward() -> None:
            with lower:
                embed(**asked)

        return Work(forward, wait, peak)
    model.train()
    if kind == "locked":
        model.vision_model.requires_grad_(False).eval().to(getattr(torch, dtype))
    tuned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(tuned, PEAK_LR, weight_decay=1e-4, fused=True)

    called = torch.compile(model) if compiled else model

    def run() -> None:
        optimiser.zero_grad()
        with lower:
            loss = called(**tokens, pixel_values=pictures, return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimiser.step()

    return Work(run, wait, peak)


SIDES = {"lit_jax": ours, "HF PyTorch": huggingface}


class Worker:
    """The process of one side; it is warmed up on creation."""

    def __init__(self, side: str, kind: str, options: argparse.Namespace) -> None:
        asked = [side, kind, str(options.batch), str(options.length), str(int(options.tiny))]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *asked],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin and self.process.stdout
        self.read()

    def read(self) -> list[float]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit("a worker ended before its time; what it said is above")
        return json.loads(line)

    def measure(self) -> list[float]:
        """Seconds of wall clock and of CPU of one run."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def compare(
    pairs: dict[str, tuple[tuple[str, str], tuple[str, str]]], options: argparse.Namespace
) -> dict[str, Any]:
    """Medians and their ratios for each named pair of (side, kind), measured in turn."""
    results = {}
    for name, pair in pairs.items():
        workers = [Worker(*who, options) for who in pair]
        runs = [[w.measure() for w in workers] for _ in range(options.rounds)]
        for worker in workers:
            worker.close()
        (wall, cpu), (other_wall, other_cpu) = (
            [statistics.median(column) for column in zip(*(run[i] for run in runs), strict=True)]
            for i in (0, 1)
        )
        results[name] = {
            "first": " ".join(pair[0]),
            "second": " ".join(pair[1]),
            "first_s": wall,
            "second_s": other_wall,
            "ratio": wall / other_wall,
            "cpu_ratio": cpu / other_cpu,
        }
    return results


def main(doc: str, pairs: dict[str, tuple[tuple[str, str], tuple[str, str]]]) -> None:
    """The command line of a benchmark that compares `pairs`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="pairs (default: 8)")
    parser.add_argument("--length", type=int, default=32, help="tokens per text (default: 32)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each side (default: 9)")
    parser.add_argument(
        "--only", choices=pairs, action="append", help="only this comparison (may be repeated)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="use towers of two narrow layers, to try the script"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    for name in ("batch", "length", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; want at least 1")
    from lit_jax.utils.console import table

    results = compare({name: pairs[name] for name in options.only or pairs}, options)
    packages = {name: version(name) for name in ("jax", "torch", "transformers")}
    machine = {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), **packages}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"batch {options.batch}, length {options.length}, float32, medians of {options.rounds}\n")
    rows = [
        (n, f["first"], f["second"], *(f"{f[k]:.3f}" for k in ("first_s", "second_s", "ratio", "cpu_ratio")))
        for n, f in results.items()
    ]
    print(table(("", "first", "second", "first s", "second s", "ratio", "of CPU time"), rows))
    if options.json:
        asked = {name: getattr(options, name) for name in ("batch", "length", "rounds", "tiny")}
        options.json.write_text(
            json.dumps({"machine": machine, **asked, "results": results}, indent=2) + "\n"
        )


def work(side: str, kind: str, batch: str, length: str, tiny: str) -> None:
    run, wait, _ = SIDES[side](kind, int(batch), int(length), tiny == "1")
    for _ in range(2):
        run()
        wait()
    print("[]", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        run()
        wait()
        print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1]]), flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:])
