"""The usable records of a source, where broken ones must be left out before anything is measured."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lit_jax.data.bad_records import in_words
from lit_jax.data.sources.base import Record, Source
from lit_jax.data.sources.subset import Subset
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)
_AT_ONCE = 256  # Records that threads read ahead.


class Broken(NamedTuple):
    """A record that is left out."""

    source: str
    record: int
    reason: str


def broken_records(source: Source, check: Callable[[Record], object]) -> list[Broken]:
    """The records of `source` that cannot be read or that `check` refuses with a DataError; threads read them."""

    def reason(index: int) -> str:
        try:
            check(source[index])
        except DataError as error:
            return str(error) or "it is broken"
        return ""

    def reasons() -> Iterator[str]:
        with ThreadPoolExecutor(min(cores(), 16)) as pool:
            for start in range(0, len(source), _AT_ONCE):
                yield from pool.map(reason, range(start, min(start + _AT_ONCE, len(source))))

    return [Broken(source.spec, index, why) for index, why in enumerate(reasons()) if why]


def tell(source: Source, broken: Sequence[Broken]) -> None:
    """Warns of the `broken` records of `source`, if there are any. Raises DataError if no others are left."""
    if not broken:
        return
    why = in_words(row.reason for row in broken)
    if len(broken) == len(source):
        raise DataError(
            f"{source.spec}: every one of its {len(source)} records is broken ({why}); repair the data"
        )
    _log.warning("%s: %d of %d records are left out (%s)", source.spec, len(broken), len(source), why)


def without(source: Source, broken: Sequence[Broken]) -> Source:
    """`source` without its `broken` records."""
    numbers = {row.record for row in broken}
    return Subset(source, [i for i in range(len(source)) if i not in numbers]) if broken else source
