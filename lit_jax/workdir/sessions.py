"""sessions.jsonl of a workdir: when, from which step and on which machine training started or resumed."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from lit_jax.utils.atomic import clear
from lit_jax.utils.environment import machine

log = logging.getLogger(__name__)

SESSIONS = "sessions.jsonl"  # In a workdir: a line for each time that training started or resumed.


def note_session(path: Path, step: int) -> None:
    """Records in SESSIONS at `path` that a run starts or resumes now, after `step`, on this machine."""
    clear(path, log)
    line = {"step": step, "time": datetime.now(UTC).isoformat(timespec="seconds"), **machine()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
