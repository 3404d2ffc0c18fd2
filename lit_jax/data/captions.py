"""Which captions of a record can be used."""

from collections.abc import Sequence

from lit_jax.data.sources.base import check_caption
from lit_jax.utils.errors import DataError


def usable_captions(captions: Sequence[object]) -> list[str]:
    """The texts of `captions` that `check_caption` accepts, in their order.

    Raises `DataError` if there is none, with the reason for the first one.
    """
    if not captions:
        raise DataError("record has no caption")
    usable: list[str] = []
    first: DataError | None = None
    for caption in captions:
        try:
            usable.append(check_caption(caption))
        except DataError as error:
            first = first or error
    if usable:
        return usable
    assert first is not None
    if len(captions) == 1:
        raise first
    raise DataError(f"none of its {len(captions)} captions can be used: {first}") from first
