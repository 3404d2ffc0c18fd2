"""Tokenizers of transformers that are written in Python (SigLIP, M2M-100, PhoBERT ...), used like the fast ones."""

import copy
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# Settings that say where a tokenizer comes from, or that `length` replaces.
_ELSEWHERE = (
    *("name_or_path", "is_local", "local_files_only", "processor_class", "tokenizer_class"),
    "model_max_length",
)


class Row(NamedTuple):
    """The tokens of a text, with the names of `tokenizers.Encoding`."""

    ids: list[int]
    attention_mask: list[int]
    type_ids: list[int]


@dataclass
class PythonTokenizer:
    """The methods of `tokenizers.Tokenizer` that are used, for a copy of a tokenizer that has none behind it.

    Threads may share it, and processes receive a copy.
    """

    tokenizer: Any
    length: int | None = None  # Texts are cut and padded to it; None: they stay as long as they are.

    @classmethod
    def of(cls, tokenizer: Any) -> "PythonTokenizer":
        """Wraps a copy: what is later done to `tokenizer` has no effect."""
        return cls(copy.copy(tokenizer))

    def num_special_tokens_to_add(self, pair: bool) -> int:
        """How many tokens a text without words has."""
        return len(self.tokenizer("")["input_ids"])

    def enable_truncation(self, length: int, **_: Any) -> None:
        """Texts are cut to `length`, on the tokenizer's own side."""
        self.length = length

    def enable_padding(self, **_: Any) -> None:
        """Texts are padded to the length to which they are cut, on the tokenizer's own side."""

    def no_truncation(self) -> None:
        """Texts stay as long as they are."""
        self.length = None

    def no_padding(self) -> None:
        """Texts stay as short as they are."""
        self.length = None

    def encode_batch_fast(self, texts: Sequence[str]) -> list[Row]:
        """The tokens of each text. Raises TypeError for text that is not Unicode, as tokenizers does."""
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise TypeError(str(error)) from error
        cut = {"truncation": True, "padding": "max_length", "max_length": self.length} if self.length else {}
        names = {"return_attention_mask": True, "return_token_type_ids": True}
        batch = self.tokenizer(list(texts), verbose=False, **names, **cut)
        columns = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        return [Row(*row) for row in zip(*columns, strict=True)]

    def id_to_token(self, number: int) -> str | None:
        """The token of that number."""
        return self.tokenizer.convert_ids_to_tokens(number)

    def to_str(self) -> str:
        """A text that is equal for two tokenizers if their settings and the contents of their files are."""
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer.save_vocabulary(folder)
            files = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()
            }
        settings = {
            name: str(value)
            for name, value in self.tokenizer.init_kwargs.items()
            if name not in _ELSEWHERE and not name.endswith("_file")
        }
        return json.dumps([type(self.tokenizer).__name__, settings, files], sort_keys=True)
