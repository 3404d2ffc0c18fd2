"""Turns captions into the input of a text tower, exactly as the tokenizer of its folder does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_jax.data.transforms.python_tokenizer import PythonTokenizer
from lit_jax.utils.errors import ConfigError, DataError, LitJaxError, first_line
from lit_jax.utils.typing import Tokenizer
from lit_jax.utils.utf8 import writable

# More than any token has (WordPiece: 100); no more than `length` times this many characters of a text are read.
CHARS_PER_TOKEN = 128

_PROMPT = "text_prompt"  # A field of tokenizer_config.json, so it is saved with the tokenizer.


def prompt_of(tokenizer: Tokenizer) -> str:
    """What stands before every text ("query: "), in training and in use alike; "" for most tokenizers."""
    prompt = getattr(tokenizer, "init_kwargs", {}).get(_PROMPT)
    return prompt if isinstance(prompt, str) else ""


def set_prompt(tokenizer: Tokenizer, prompt: str) -> None:
    """Puts `prompt` before every text from now on. Raises ConfigError for a prompt or tokenizer that cannot be used."""
    if writable(prompt) != prompt:
        raise ConfigError(f"text_prompt is {prompt!r:.80}, which is not valid Unicode; write it anew")
    if not isinstance(kept := getattr(tokenizer, "init_kwargs", None), dict):
        raise ConfigError(f"{type(tokenizer).__name__} cannot keep a text_prompt; wanted one of transformers")
    kept[_PROMPT] = prompt


def make_tokenize(tokenizer: Tokenizer, length: int, vocab_size: int | None = None) -> "BatchTokenizer":
    """Returns `tokenize(texts) -> {"input_ids"[, "attention_mask"][, "token_type_ids"]}`, each int32 [n, length].

    It equals `tokenizer(texts, padding="max_length", truncation=True, max_length=length)` for texts that begin with the
    tokenizer's prompt (`prompt_of`). The tokenizer's `model_input_names` say what the tower is given (SigLIP's was
    trained without a mask). It works on a copy, so threads can share it and the padding of `tokenizer.json` has no
    effect. It reads only `CHARS_PER_TOKEN * length` characters of a text: the first ones, or the last ones if the
    tokenizer truncates on the left. A text without tokens keeps one padding token in its mask. Raises `ConfigError` for
    a tokenizer without a padding token, and for an unusable `length`. `tokenize` raises `DataError` for text that is
    not Unicode, and `ConfigError` for a token outside the tower's `vocab_size`, which XLA would silently replace by
    another one.
    """
    name = type(tokenizer).__name__
    if tokenizer.pad_token is None:
        raise ConfigError(f"{name} has no padding token; set its pad_token, for instance to its eos_token")
    fast = _fast(tokenizer)
    least = fast.num_special_tokens_to_add(False) + 1
    if isinstance(tokenizer.model_max_length, bool) or not isinstance(
        tokenizer.model_max_length, int | float
    ):
        raise ConfigError(f"model_max_length of {name} is {tokenizer.model_max_length!r}; wanted a number")
    if not least <= length <= tokenizer.model_max_length:
        raise ConfigError(
            f"text length {length} is outside {least} to {tokenizer.model_max_length} of {name}"
        )
    try:
        with panics_raised(ConfigError):
            fast.enable_truncation(length, direction=tokenizer.truncation_side)
            fast.enable_padding(
                length=length,
                direction=tokenizer.padding_side,
                pad_id=tokenizer.pad_token_id,
                pad_type_id=tokenizer.pad_token_type_id,
                pad_token=tokenizer.pad_token,
            )
    except (TypeError, OverflowError, ValueError) as error:
        raise ConfigError(f"{name} cannot cut and pad texts: {first_line(error)}") from error
    return BatchTokenizer(
        fast,
        length,
        with_mask=makes_mask(tokenizer),
        with_types="token_type_ids" in tokenizer.model_input_names,
        first=0 if tokenizer.padding_side == "right" else length - 1,
        from_end=tokenizer.truncation_side == "left",
        vocab_size=vocab_size,
        prompt=prompt_of(tokenizer),
    )


@dataclass(frozen=True)
class BatchTokenizer:
    """What `make_tokenize` returns; threads may share it, and processes receive a copy."""

    fast: Any  # tokenizers.Tokenizer, or PythonTokenizer
    length: int
    with_mask: bool
    with_types: bool
    first: int  # Position that stays in the mask of a text without tokens.
    from_end: bool  # A text that is too long loses its beginning.
    vocab_size: int | None = None
    prompt: str = ""

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        limit = CHARS_PER_TOKEN * self.length
        read = slice(-limit, None) if self.from_end else slice(limit)
        rows = _encoded(self.fast, [(self.prompt + text)[read] for text in texts])
        lists = {"input_ids": [row.ids for row in rows]}
        if self.with_mask:
            lists["attention_mask"] = [row.attention_mask for row in rows]
        if self.with_types:
            lists["token_type_ids"] = [row.type_ids for row in rows]
        wide = {key: np.array(ids, np.int64).reshape(len(rows), self.length) for key, ids in lists.items()}
        if (most := max(ids.max(initial=0) for ids in wide.values())) > np.iinfo(np.int32).max:
            raise ConfigError(
                f"the tokenizer gives the number {most}, which no table has; its files are damaged"
            )
        out = {key: ids.astype(np.int32) for key, ids in wide.items()}
        largest = out["input_ids"].max(initial=0)
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise ConfigError(
                f"the tokenizer gives token {largest} ({self.fast.id_to_token(int(largest))!r}) and the tower's "
                f"vocabulary has {self.vocab_size}; use the tokenizer that belongs to the tower"
            )
        if self.with_mask:  # A softmax over no tokens is NaN.
            out["attention_mask"][~out["attention_mask"].any(axis=1), self.first] = 1
        return out


def makes_mask(tokenizer: Tokenizer) -> bool:
    """Whether padding is masked. Without a mask, a text's embedding depends on how far it is padded."""
    return "attention_mask" in tokenizer.model_input_names


def make_count_tokens(tokenizer: Tokenizer, length: int) -> "TokenCounter":
    """Returns `count(texts)`: the number of tokens of each text, with its prompt and special tokens, before it is cut.

    No more than `CHARS_PER_TOKEN * length` characters of a text are read; a longer one counts at least `length` + 1.
    """
    fast = _fast(tokenizer)
    fast.no_truncation()
    fast.no_padding()
    return TokenCounter(fast, length, prompt_of(tokenizer))


@dataclass(frozen=True)
class TokenCounter:
    """What `make_count_tokens` returns; threads may share it, and processes receive a copy."""

    fast: Any  # tokenizers.Tokenizer, or PythonTokenizer
    length: int
    prompt: str = ""

    def __call__(self, texts: Sequence[str]) -> list[int]:
        limit = CHARS_PER_TOKEN * self.length
        texts = [self.prompt + text for text in texts] if self.prompt else texts
        rows = _encoded(self.fast, [text[:limit] for text in texts])
        return [
            max(len(row.ids), self.length + 1) if len(text) > limit else len(row.ids)
            for row, text in zip(rows, texts, strict=True)
        ]


def _encoded(fast: Any, texts: Sequence[str]) -> list[Any]:
    try:
        with panics_raised(ConfigError):
            return list(fast.encode_batch_fast(texts))
    except TypeError as e:  # Raised for a string that UTF-8 cannot encode.
        raise DataError(f"one of {len(texts)} texts is not valid Unicode (a lone surrogate)") from e
    except LitJaxError:
        raise
    except Exception as e:  # tokenizers raises this very class, for instance if its table lacks [UNK].
        raise ConfigError(f"the tokenizer cannot read a text: {first_line(e)}") from e


@contextmanager
def panics_raised(kind: type[LitJaxError]) -> Iterator[None]:
    """Turns a panic of tokenizers, which is no Exception and would pass every handler, into an error of that kind."""
    try:
        yield
    except Exception:
        raise
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        raise kind(f"the tokenizer fails at a text or at its own files: {first_line(panic)}") from panic


def _fast(tokenizer: Any) -> Any:
    """A copy of the `tokenizers.Tokenizer` behind a tokenizer, or a PythonTokenizer if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return PythonTokenizer.of(tokenizer)
    with panics_raised(ConfigError):
        fast = type(backend).from_str(backend.to_str())
    fast.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return fast
