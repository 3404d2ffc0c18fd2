"""How long training waits for a save: calls to `Checkpoints.save` in a loop of real arithmetic.

    python benchmarks/saves.py
    python benchmarks/saves.py --megabytes 500 --steps 300

The state has --megabytes: weights and AdamW's two moments, a third each. The script prints JSON: the seconds for which
each due save blocked, the share of the loop's time in all calls to save, and how long a save takes in the background.
"""

import argparse
import json
import tempfile
import time
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lit_jax.workdir.checkpoints import Checkpoints


@chex.dataclass(frozen=True, mappable_dataclass=False)
class State:
    step: Any
    tuned: Any
    locked: Any
    opt: Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-every", type=int, default=100, help="steps (default: 100, as in a config)")
    parser.add_argument(
        "--width", type=int, default=1024, help="width of the matrices that a step multiplies"
    )
    args = parser.parse_args()
    size = args.megabytes * 1_000_000 // 12 // 8
    tree = {f"layer_{i}": jnp.arange(size, dtype=jnp.float32) for i in range(8)}
    state = State(jnp.int32(0), tree, {}, {"mu": tree, "nu": tree})

    @jax.jit
    def step(state: State, x: jax.Array) -> tuple[State, jax.Array]:
        for _ in range(8):
            x = jnp.tanh(x @ x / args.width)
        tuned = jax.tree.map(lambda leaf: leaf + x[0, 0], state.tuned)
        return state.replace(step=state.step + 1, tuned=tuned), x

    x = jnp.ones((args.width, args.width)) / 100
    with tempfile.TemporaryDirectory() as folder:
        ours = Checkpoints(folder, save_every=args.save_every)
        state, x = step(state, x)
        ours.save(0, state, {}, force=True)  # The first save starts threads and compiles.
        ours.wait()
        due, all_calls, background, since = [], 0.0, [], time.perf_counter()
        for number in range(1, args.steps + 1):
            state, x = jax.block_until_ready(step(state, x))
            before = time.perf_counter()
            saved = ours.save(number, state, {"next": number})
            took = time.perf_counter() - before
            all_calls += took
            if saved:
                due.append(took)
                ours.wait() if number == args.steps else None
                background += [time.perf_counter() - before] if number == args.steps else []
        whole = time.perf_counter() - since
        ours.close()
    print(
        json.dumps(
            {
                "megabytes": args.megabytes,
                "step_seconds": round((whole - all_calls) / args.steps, 4),
                "blocked_seconds": [round(seconds, 3) for seconds in due],
                "blocked_share": round(all_calls / whole, 5),
                "background_seconds": [round(seconds, 2) for seconds in background],
            }
        )
    )


if __name__ == "__main__":
    main()
