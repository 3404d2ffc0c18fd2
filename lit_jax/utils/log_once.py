"""Log messages that are written only once, though what they are about is read several times."""

import logging
from functools import cache


@cache
def log_once(log: logging.Logger, level: int, sentence: str) -> None:
    """Logs `sentence` unless this process has logged it before."""
    log.log(level, "%s", sentence)
