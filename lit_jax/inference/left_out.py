"""The ledger of an index: the pictures that it leaves out, and why.

While an index is written, each shard has a part of the ledger; LEDGER replaces these parts once all shards exist.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.utils import strict_json
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.inside import refusal
from lit_jax.utils.parts import put_last

LEDGER = "broken_records.jsonl"


class LeftOut(NamedTuple):
    """A picture that is not in the index."""

    source: str
    record: int  # Its number in the source.
    reason: str


def part_of(shard: Path) -> Path:
    """The part of the ledger that belongs to a file of a shard."""
    return shard.with_name(f"broken_records-{shard.stem.partition('-')[2]}.jsonl")


def write(path: Path, rows: Sequence[LeftOut]) -> None:
    """Writes a ledger, one line of JSON per picture; no file if `rows` is empty."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    lines = "".join(json.dumps(row._asdict()) + "\n" for row in rows)
    put_last(path, lambda draft: draft.write_text(lines, "utf-8"))


def records_of(rows: Sequence[LeftOut]) -> list[int]:
    """The numbers of the records of a ledger, in its order."""
    return [row.record for row in rows]


def read(path: Path) -> list[LeftOut]:
    """What `write` wrote. Raises DataError for anything else."""
    if not os.path.lexists(path):
        return []
    try:
        if why := refusal(path, path.parent, strict_json.LARGEST):
            raise ValueError(why)
        return [_row(strict_json.parse(line)) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or first_line(e)
        raise DataError(f"{path} cannot be read: {reason}; delete the index, embed again") from e


def _row(found: Any) -> LeftOut:
    if (
        isinstance(found, dict)
        and {name: type(value) for name, value in found.items()} == LeftOut.__annotations__
    ):
        return LeftOut(**found)
    raise ValueError(f"a line of it has no {', '.join(LeftOut._fields)}")


def is_ledger(name: str) -> bool:
    """Whether a file of that name is a ledger, or a part of one."""
    return name.startswith("broken_records")
