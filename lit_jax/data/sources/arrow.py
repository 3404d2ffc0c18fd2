"""`arrow:`: what `save_to_disk` of the package `datasets` wrote, and other Arrow files with pictures in rows."""

import hashlib
import os
from typing import Any

from lit_jax.data.sources.arrow_batches import RecordBatches
from lit_jax.data.sources.files import Found
from lit_jax.data.sources.other_sources import ARROW_SPLITS, STATE
from lit_jax.data.sources.parquet import ParquetSource
from lit_jax.utils import strict_json
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.inside import content

_MOST = 16 << 20  # Bytes of a file in JSON.
_CACHED = "cache-"  # What `map` and `filter` leave beside the files of a set.
_CHOSEN = "_indices_data_files", "_indices_files"  # Fields of old versions of `datasets`.


class ArrowSource(ParquetSource):
    """The rows of Arrow files, with columns that are found and joined as those of parquet files.

    A folder with a `state.json` stands for the files that this names, in its order of names; any other folder stands
    for its files that end in `.arrow`, without those that `map` and `filter` leave there. The files are mapped into
    memory, so they must be on this machine. Raises `DataError`.
    """

    kind, Groups = "arrow", RecordBatches

    def fingerprint(self) -> str:
        """The sha256 of `ParquetSource.fingerprint` and of what `datasets` says that it saved."""
        folders = sorted({os.path.dirname(path) for path in self._groups.paths})
        saved = [self._json(f"{folder}/{STATE}").get("_fingerprint") for folder in folders]
        return hashlib.sha256(f"{super().fingerprint()} {saved}".encode()).hexdigest()

    def _list(self) -> Found:
        for folder in self._files.roots if self._files.local else ():
            if os.path.isfile(f"{folder}/{ARROW_SPLITS}"):
                splits = self._json(f"{folder}/{ARROW_SPLITS}").get("splits")
                names = [str(name) for name in splits] if isinstance(splits, list) else []
                raise DataError(
                    f"{self.spec} holds the splits {', '.join(names) or 'of a set'}; name one of them: "
                    f"{self.spec.rstrip('/')}/{names[0] if names else 'SPLIT'}"
                )
        return self._files.glob(".arrow", self._own)

    def _own(self, folder: str, found: Found) -> Found:
        """Those of the Arrow files in a folder that are the set. Raises `DataError`."""
        names = {os.path.basename(path): path for path in found}
        if not (state := self._json(f"{folder}/{STATE}")):
            own = [name for name in names if not name.startswith(_CACHED)]
            return {names[name]: found[names[name]] for name in own or names}
        if any(state.get(field) for field in _CHOSEN):
            raise DataError(
                f"{self.spec} was saved with a choice of its rows beside it, which is not read; save it anew by "
                "datasets.load_from_disk(DIR).flatten_indices().save_to_disk(OTHER)"
            )
        try:
            own = [shard["filename"] for shard in state["_data_files"]]
            lost = [name for name in own if name not in names]
        except (KeyError, TypeError):
            own = lost = []
        if lost or not own:
            what = f"{lost[0]!r}, which is missing; fetch it" if lost else "no files; save the set"
            raise DataError(f"{self.spec}: {STATE} names {what} again")
        return {names[name]: found[names[name]] for name in own}

    def _json(self, path: str) -> dict[str, Any]:
        """The object in a file; {} if there is no such file. Raises `DataError`."""
        try:
            value = strict_json.parse(content(path, _MOST))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            raise DataError(f"{self.spec}: {os.path.basename(path)} cannot be read: {first_line(e)}") from e
        return value if isinstance(value, dict) else {}
