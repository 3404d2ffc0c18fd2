"""What the shipped recipes cost on slices of TPUs: `lit-jax plan` over a table, printed in Markdown.

    pip install '.[tpu]'
    python benchmarks/plans.py --json plans.json
    python benchmarks/plans.py --json plans.json --only lit_b16_bert --only v6e

No TPU is needed: libtpu compiles for any slice, which takes some minutes per row. Each row is a process of its own, and
is written to --json when it is done. Rows in the file are not compiled again, so a run that was stopped continues; for
new figures, name a new file. A row that fails is named with the reason at the end, and the exit status is 1.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GIB = 1 << 30
START = time.perf_counter()


class Row(NamedTuple):
    """A config, the slice for which it is planned, and the fields set on top of it."""

    config: str
    topology: str
    options: str = ""

    @property
    def key(self) -> str:
        return " ".join(filter(None, self))


RECIPES = ("lit_b16_bert", "lit_l16_bert", "siglit_b16", "lit_multilingual", "clip_finetune", "frozen_towers")
ROWS = (
    Row("lit_b16_bert", "v5e:2x4", "batch_size=4096 model.remat=products"),
    Row("lit_b16_bert", "v5e:2x4"),
    Row("lit_b16_bert", "v5e:2x4", "batch_size=32768 micro_batch=16384"),
    Row("lit_b16_bert", "v5e:16x16", "batch_size=1048576 micro_batch=131072 loss_how=ring"),
    Row(
        "lit_b16_bert",
        "v5e:16x16",
        "batch_size=1048576 micro_batch=131072 loss_how=ring loss_precision=bfloat16",
    ),
    *(Row(recipe, "v5e:2x4") for recipe in RECIPES[1:]),
    *(Row(recipe, "v6e:2x4") for recipe in RECIPES),
    *(Row(recipe, "v5p:2x2x2") for recipe in RECIPES),
)
HEADINGS = (
    "config, slice",
    "set beside it",
    "pairs, at a time",
    "peak",
    "recomputed",
    "loss",
    "arithmetic",
    "memory",
    "at most",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("plans.json"), help="where figures are kept")
    parser.add_argument(
        "--only", action="append", default=[], help="rows with this text in them; may be repeated"
    )
    parser.add_argument("--minutes", type=float, default=30, help="limit of a row (default: 30)")
    parser.add_argument("--compile", help=argparse.SUPPRESS)  # The process of one row, by its key.
    args = parser.parse_args()
    if args.compile:
        print(json.dumps(compiled(next(row for row in ROWS if row.key == args.compile))))
        return 0
    rows = [row for row in ROWS if all(text in row.key for text in args.only)]
    done, failed = read(args.json), {}
    for row in rows:
        if row.key not in done["plans"]:
            try:
                done["plans"][row.key] = planned(row, args.minutes)
            except RuntimeError as error:
                failed[row.key] = str(error)
                continue
            write(args.json, done)
    print(f"libtpu {done['libtpu']}, jax {done['jax']}\n")
    print(table([(row, done["plans"][row.key]) for row in rows if row.key in done["plans"]]))
    for key, reason in failed.items():
        print(f"\n{key}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def read(path: Path) -> dict[str, Any]:
    """The rows that are done. Exits if another libtpu or JAX made them."""
    versions = {name: importlib.metadata.version(name) for name in ("libtpu", "jax")}
    if not path.exists():
        return {**versions, "plans": {}}
    done: dict[str, Any] = json.loads(path.read_text())
    found = {name: done[name] for name in versions}
    if found != versions:
        sys.exit(f"{path} was made with {found}, and this is {versions}; name another file for --json")
    return done


def write(path: Path, done: dict[str, Any]) -> None:
    """Writes beside the file first, so that a kill leaves the old file or the new one."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(done, indent=1) + "\n")
    beside.replace(path)


def planned(row: Row, minutes: float) -> dict[str, Any]:
    """The plan of a row, made by a process of its own. Raises RuntimeError with its last line of output."""
    command = [sys.executable, __file__, "--compile", row.key]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not compiled within {minutes:g} minutes") from None
    if ended.returncode:
        words = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
        raise RuntimeError(words[-1])
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def compiled(row: Row) -> dict[str, Any]:
    """The plan of a row, without the embed steps."""
    from lit_jax.commands.plan import FLAGS, without_tpu

    without_tpu()
    from lit_jax.tools.plan.plan import plan

    options = [f"--config.{option}" for option in row.options.split()]
    config, _ = FLAGS.parse(["--config", str(CONFIGS / f"{row.config}.py"), *options])
    return plan(config, row.topology, embed=False) | {"seconds_to_plan": round(time.perf_counter() - START)}


def table(plans: list[tuple[Row, dict[str, Any]]]) -> str:
    """Markdown with a line for each plan."""
    lines = [" | ".join(HEADINGS), " | ".join(["---", "---"] + ["---:"] * (len(HEADINGS) - 2))]
    return "\n".join(f"| {line} |" for line in lines + [" | ".join(cells(*plan)) for plan in plans])


def cells(row: Row, found: dict[str, Any]) -> list[str]:
    seconds = found["seconds"]
    return [
        f"`{row.config}`, {row.topology}",
        f"`{row.options}`" if row.options else "",
        f"{found['batch_size']:,}, {found['micro_batch']:,}",
        f"{found['peak'] / GIB:.1f} of {found['limit'] // GIB} GiB",
        f"{found['recomputed'] / found['executed']:.1%}".replace("%", " %"),
        f"{found['loss_share']:.1%}".replace("%", " %"),
        f"{seconds['arithmetic'] * 1000:,.0f} ms",
        f"{seconds['memory'] * 1000:,.0f} ms",
        f"{found['pairs_a_second']:,.0f} pairs/s",
    ]


if __name__ == "__main__":
    sys.exit(main())
