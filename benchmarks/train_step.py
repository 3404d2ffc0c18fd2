"""lit_jax's train step against Hugging Face's PyTorch model with AdamW: ViT-B/16 + BERT-base, float32, on the CPU.

    python benchmarks/train_step.py --rounds 9
    python benchmarks/train_step.py --only cached --length 16
    python benchmarks/train_step.py --host --tiny --batch 64

"locked" trains only the text tower, "unlocked" trains both; "cached" compares lit_jax's locked step with and without
cached image outputs. Ratios are first over second: below 1, the first is faster. This needs torch.

--host trains for real instead, with `lit-jax train`'s own loop on generated drawings, and prints the time that the host
spends on a step (starting it, logging and saving; not waiting for data or devices) beside the devices' time. It does
not need torch.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import configs, main

PAIRS = {
    "locked": (("lit_jax", "locked"), ("HF PyTorch", "locked")),
    "unlocked": (("lit_jax", "unlocked"), ("HF PyTorch", "unlocked")),
    "cached": (("lit_jax", "cached"), ("lit_jax", "locked")),
}


def train_config(options: argparse.Namespace) -> dict[str, Any]:
    """A run with new towers on drawings, which saves nothing before its last step."""
    vision, text = configs(options.tiny)
    return {
        "steps": options.steps,
        "batch_size": options.batch,
        "log_every": options.log_every,
        "save_every": options.save_every,
        "model": {
            "vision": "",
            "text": "",
            "vision_config": {"model_type": "vit", **vision},
            "text_config": {"model_type": "bert", **text},
            "lock_towers": "uu",
        },
        "data": {"train": "shapes:4096/train", "text_length": options.length, "threads": 1},
        "optim": {"schedule": "constant"},
    }


def host() -> None:
    """Prints the host's and the devices' time per step, for every `log_every` steps of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", action="store_true", help="this")
    parser.add_argument("--batch", type=int, default=64, help="pairs (default: 64)")
    parser.add_argument("--length", type=int, default=32, help="tokens per text (default: 32)")
    parser.add_argument("--steps", type=int, default=100, help="steps (default: 100)")
    parser.add_argument("--log-every", type=int, default=10, help="steps between two logs (default: 10)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between two saves (default: 100)")
    parser.add_argument("--tiny", action="store_true", help="use towers of two narrow layers")
    options = parser.parse_args()
    from lit_jax.train.loop import train
    from lit_jax.utils.console import table

    with tempfile.TemporaryDirectory() as folder:
        train(train_config(options), folder)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    shown = [
        (
            str(row["step"]),
            *(f"{row[name]:.3f}" for name in ("host_ms", "device_ms", "host_share", "data_wait")),
        )
        for row in rows
        if "host_ms" in row
    ]
    print(table(("step", "host ms", "device ms", "share", "waits for data"), shown))


if __name__ == "__main__":
    if "--host" in sys.argv[1:]:
        host()
    else:
        main(__doc__, PAIRS)
