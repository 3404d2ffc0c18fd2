"""Refusals of requests that may be repeated soon."""

from starlette.exceptions import HTTPException

AFTER = {"Retry-After": "5"}  # Seconds.


def later(sentence: str) -> HTTPException:
    """A refusal with status 503, which says after how many seconds to ask again."""
    return HTTPException(503, sentence, AFTER)
