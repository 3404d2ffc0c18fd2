"""Sentences of a log that are said once, though what they are about is read several times."""

import logging
from functools import cache


@cache
def log_once(log: logging.Logger, level: int, sentence: str) -> None:
    """Logs `sentence` unless it was logged in this process before."""
    log.log(level, "%s", sentence)
