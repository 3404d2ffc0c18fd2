"""From captions to what a text tower reads, as the tokenizer of its folder would make it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_jax.utils.errors import ConfigError, DataError

CHARS_PER_TOKEN = 128  # Longer than any token (WordPiece: 100); a text is read up to `length` of these.


def make_tokenize(tokenizer: Any, length: int, vocab_size: int | None = None) -> "Tokenize":
    """Returns `tokenize(texts) -> {"input_ids", "attention_mask"[, "token_type_ids"]}`, each int32 [n, length].

    Equals `tokenizer(texts, padding="max_length", truncation=True, max_length=length)`, from a copy of its own, so
    that threads can share it and what `tokenizer.json` says of padding does not matter. Only `CHARS_PER_TOKEN * length`
    characters are looked at, the first of a text, or the last where truncation takes the beginning. A text without any
    token keeps one padding token in its mask. Raises `ConfigError` for a tokenizer that is not fast or has no padding
    token, and for an unusable `length`; `tokenize` raises `DataError` for text that is not Unicode, and `ConfigError`
    for a token outside the tower's `vocab_size`, which XLA would take for another one without a word.
    """
    name = type(tokenizer).__name__
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"{name} has no tokenizer.json behind it; convert it to a fast tokenizer first")
    if tokenizer.pad_token is None:
        raise ConfigError(f"{name} has no padding token; set its pad_token, for instance to its eos_token")
    fast = _fast(tokenizer)
    least = fast.num_special_tokens_to_add(False) + 1
    if not least <= length <= tokenizer.model_max_length:
        raise ConfigError(
            f"text length {length} is outside {least} to {tokenizer.model_max_length} of {name}"
        )
    fast.enable_truncation(length, direction=tokenizer.truncation_side)
    fast.enable_padding(
        length=length,
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    return Tokenize(
        fast,
        length,
        with_types="token_type_ids" in tokenizer.model_input_names,
        first=0 if tokenizer.padding_side == "right" else length - 1,
        from_end=tokenizer.truncation_side == "left",
        vocab_size=vocab_size,
    )


@dataclass(frozen=True)
class Tokenize:
    """What `make_tokenize` returns; threads may share it, and processes receive a copy."""

    fast: Any  # tokenizers.Tokenizer
    length: int
    with_types: bool
    first: int  # The token that stays in the mask of a text without any.
    from_end: bool  # What is too long loses its beginning.
    vocab_size: int | None = None

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        limit = CHARS_PER_TOKEN * self.length
        read = slice(-limit, None) if self.from_end else slice(limit)
        try:
            rows = self.fast.encode_batch_fast([text[read] for text in texts])
        except TypeError as e:  # The tokenizer's word for a string that UTF-8 cannot hold.
            raise DataError(f"one of {len(texts)} texts is not valid Unicode (a lone surrogate)") from e
        lists = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [row.attention_mask for row in rows],
        }
        if self.with_types:
            lists["token_type_ids"] = [row.type_ids for row in rows]
        out = {key: np.array(ids, np.int32).reshape(len(rows), self.length) for key, ids in lists.items()}
        largest = out["input_ids"].max(initial=0)
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise ConfigError(
                f"the tokenizer gives token {largest} ({self.fast.id_to_token(int(largest))!r}) and the tower's "
                f"vocabulary has {self.vocab_size}; take the tokenizer that belongs to the tower"
            )
        # Softmax over nothing is NaN.
        out["attention_mask"][~out["attention_mask"].any(axis=1), self.first] = 1
        return out


def make_count_tokens(tokenizer: Any, length: int) -> "CountTokens":
    """Returns `count(texts)`: the tokens of each text, special ones included, before `make_tokenize` cuts them.

    A text of more than `CHARS_PER_TOKEN * length` characters, of which no more is read, counts `length` + 1 at least.
    """
    fast = _fast(tokenizer)
    fast.no_truncation()
    fast.no_padding()
    return CountTokens(fast, length)


@dataclass(frozen=True)
class CountTokens:
    """What `make_count_tokens` returns; threads may share it, and processes receive a copy."""

    fast: Any  # tokenizers.Tokenizer
    length: int

    def __call__(self, texts: Sequence[str]) -> list[int]:
        limit = CHARS_PER_TOKEN * self.length
        rows = self.fast.encode_batch_fast([text[:limit] for text in texts])
        return [
            max(len(row.ids), self.length + 1) if len(text) > limit else len(row.ids)
            for row, text in zip(rows, texts, strict=True)
        ]


def _fast(tokenizer: Any) -> Any:
    fast = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    fast.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return fast
