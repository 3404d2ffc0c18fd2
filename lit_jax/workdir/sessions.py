"""sessions.jsonl of a workdir: when, from which step and on which machine training began or went on."""

import json
from datetime import UTC, datetime
from pathlib import Path

from lit_jax.utils.environment import machine

SESSIONS = "sessions.jsonl"  # Of a workdir: a line for each time that training began or went on.


def note_session(path: Path, step: int) -> None:
    """Appends to SESSIONS, which is there, on which machine a run goes on after `step`, and when that was."""
    line = {"step": step, "time": datetime.now(UTC).isoformat(timespec="seconds"), **machine()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
