"""Some records of a source, as a source of their own."""

from lit_jax.data.sources import Record, Source


class Part:
    """The records from `start` to `stop` of a source, which notes the ids of those that were read."""

    def __init__(self, source: Source, start: int, stop: int):
        self._source, self._start, self._rows = source, start, stop - start
        self.spec = f"{source.spec}[{start}:{stop}]" if self._rows < len(source) else source.spec
        self.class_names = source.class_names
        self._ids: dict[int, str] = {}

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Record:
        record = self._source[self._start + index]
        self._ids[index] = record["id"]
        return record

    def ids(self) -> list[str]:
        """Of all records, where need be of those that another process has read."""
        return [self._ids.get(index) or self[index]["id"] for index in range(len(self))]

    def fingerprint(self) -> str:
        return f"{self._source.fingerprint()}[{self._start}:{len(self)}]"
