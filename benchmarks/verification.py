"""What it costs to check files before they are trusted: the share of a resume, and of an epoch with cached features.

    python benchmarks/verification.py
    python benchmarks/verification.py --tiny

"resume" restarts a run of ViT-B/16 + BERT-base (both tuned, AdamW) and ends after its next step; it checks the sums of
the checkpoint, of the description of the model and of the files beside it. "cache" is an epoch of heads on the cached
features of two frozen towers, each block of which is compared with its sum when it is first read. Both are runs of
`lit-jax train`'s own loop on generated drawings; the target is at most 5 %.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_step import train_config

from lit_jax.train.cached_rows import CachedRows
from lit_jax.train.loop import train
from lit_jax.utils import checksums
from lit_jax.utils.console import table
from lit_jax.workdir import beside

WANTED = 0.05
CHECKS: list[tuple[Any, str]] = [
    (checksums, "damage"),
    (beside, "check"),
    (CachedRows, "_compare"),
]


class Clock:
    """Adds up the time in the functions of CHECKS; if one calls another, only the outer one counts."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0
        for owner, name in CHECKS:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **settings: Any) -> Any:
            since = time.perf_counter()
            self._depth += 1
            try:
                return function(*args, **settings)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - since

        return timed


def config(*, tiny: bool, steps: int, **changes: Any) -> dict[str, Any]:
    """A run that saves every step, unless `changes` say otherwise; they are merged into the groups of the config."""
    options = argparse.Namespace(tiny=tiny, steps=steps, batch=8, length=16, log_every=10, save_every=1)
    tree = train_config(options)
    for group, values in changes.items():
        tree[group] = {**tree[group], **values} if isinstance(values, dict) else values
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small towers for the resume, and few pictures")
    parser.add_argument("--pictures", type=int, default=4096, help="of the cache (default: 4,096)")
    options = parser.parse_args()
    logging.disable()
    clock, rows = Clock(), []
    with tempfile.TemporaryDirectory() as folder:
        train(config(tiny=options.tiny, steps=1), Path(folder, "run"))
        rows.append(
            _row("resume", clock, lambda: train(config(tiny=options.tiny, steps=2), Path(folder, "run")))
        )

        pictures = 64 if options.tiny else options.pictures
        frozen = {
            "batch_size": 32,
            "save_every": pictures,
            "cache": True,
            "data": {"train": f"shapes:{pictures}/train"},
            "model": {
                "lock_rules": (("vision/.*", "lock"), ("text/.*", "lock")),
                **{"vision_pooling": "cls", "text_pooling": "mean", "vision_head": "mlp", "text_head": "mlp"},
            },
        }
        cache = Path(folder, "cache")
        train(config(tiny=True, steps=1, **frozen), Path(folder, "filling"), cache_folder=cache)
        epoch = config(tiny=True, steps=pictures // 32, **frozen)
        rows.append(_row("cache", clock, lambda: train(epoch, Path(folder, "epoch"), cache_folder=cache)))
    print(table(("", "seconds", "of it checking", "share", "wanted at most"), rows))


def _row(name: str, clock: Clock, run: Callable[[], Any]) -> tuple[str, ...]:
    before, since = clock.seconds, time.perf_counter()
    run()
    checking, seconds = clock.seconds - before, time.perf_counter() - since
    return name, f"{seconds:.2f}", f"{checking:.3g}", f"{checking / seconds:.1%}", f"{WANTED:.0%}"


if __name__ == "__main__":
    main()
