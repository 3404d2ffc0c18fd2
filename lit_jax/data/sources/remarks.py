"""What is noticed while a source is opened: a sentence for each kind, with the count and the first place."""

from collections.abc import Iterable


class Remarks:
    """Counts what is noticed, by kind. A kind is a sentence without its count: "Links are not followed"."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, first: str, count: int = 1) -> None:
        """Counts `count` more of `kind`; `first` says where the first of them is."""
        known, place = self._found.get(kind, (0, first))
        self._found[kind] = (known + count, place)

    def merge(self, others: Iterable["Remarks"]) -> None:
        """Counts what others have counted, in their order."""
        for other in others:
            for kind, (count, first) in other._found.items():
                self.add(kind, first, count)

    def sentences(self) -> tuple[str, ...]:
        """A sentence for each kind, in the order in which they were first noticed."""
        return tuple(
            f"{kind}: {count:,}, the first is {first}." for kind, (count, first) in self._found.items()
        )
