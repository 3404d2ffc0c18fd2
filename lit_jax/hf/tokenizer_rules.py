"""What a tokenizer's files may say, checked before transformers and tokenizers read them."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_jax.hf import tokenizer_probe
from lit_jax.hf.class_names import SLOW, is_tokenizer
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils import strict_json
from lit_jax.utils.inside import content

LARGEST_FILE = 64 << 20  # Bytes; those of Gemma, the largest that a supported tower has, take 34 MB.
MOST_TOKENS = 2_000_000
MOST_ADDED = 10_000
MOST_GROWTH = 100  # Characters per character of a text, after the normalizer.
_LARGEST_ID = 10_000_000
_MOST_STEPS = 200  # Each of the normalizer, the pre-tokenizer and so on.
_LONGEST = 1_000  # Characters of a token, a prefix or a pattern.
_JSON = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "config.json")
_LISTS = ("vocab.txt", "merges.txt", "bpe.codes")
_PIECES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
_IN_PYTHON = ("RoFormerTokenizer", "RoFormerTokenizerFast")  # Fast tokenizers with a step that is not.
_SPELLED_OUT = ("tokenizer.json", "vocab.txt", "vocab.json")
# Next to one of these, files of pieces may be for other programs.
_INSTEAD = ("tokenizer.json", "vocab.txt", "merges.txt")
_VOCABULARIES = (*_SPELLED_OUT, *_PIECES)
FILES = (*_VOCABULARIES, "tokenizer_config.json")  # One of them is needed.


def check(folder: Path) -> None:
    """Raises ValueError naming the file, what is wrong and what is wanted.

    A folder without a vocabulary is refused, since transformers would make a tokenizer that knows no word. Patterns
    that can go back over a text again and again are tried in a process of their own.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ValueError(
            f"it has no vocabulary, none of {', '.join(_VOCABULARIES)}; copy the files of the tokenizer there"
        )
    for name in (*_JSON, *_LISTS, *_PIECES, "tokenizer.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            if (size := path.stat().st_size) > LARGEST_FILE:
                raise ValueError(f"it has {size} bytes; at most {LARGEST_FILE} are read")
            if not size and name in _LISTS and not (folder / "tokenizer.json").is_file():
                raise ValueError("it is empty; copy the file again")
            if name in _LISTS and (lines := content(path, LARGEST_FILE).count(b"\n")) > MOST_TOKENS:
                raise ValueError(f"it has {lines} lines; at most {MOST_TOKENS} are read")
            if name in _PIECES and not any((folder / other).is_file() for other in _INSTEAD):
                _check_pieces(path, content(path, LARGEST_FILE))
            if name.endswith(".json"):
                tree = strict_json.read(path, LARGEST_FILE)
                if not isinstance(tree, dict):
                    raise ValueError(f"it holds a {type(tree).__name__} where an object is wanted")
                _CHECKS.get(name, lambda tree: None)(tree)
                if name == "tokenizer.json" and any(not tokenizer_probe.is_quick(p) for p in _patterns(tree)):
                    tokenizer_probe.run(path)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_backend(tree: dict[str, Any]) -> None:
    _check_added(tree.get("added_tokens") or [])
    model = tree.get("model")
    if not isinstance(model, dict):
        raise _unusable("model", model, "an object")
    vocabulary, merges = model.get("vocab", {}), model.get("merges") or []
    for name, entries in (("vocab", vocabulary), ("merges", merges)):
        if not isinstance(entries, dict | list):
            raise _unusable(name, entries, "a table")
        if len(entries) > MOST_TOKENS:
            raise ValueError(f"{name} has {len(entries)} entries; at most {MOST_TOKENS} are read")
    if isinstance(vocabulary, dict):
        _check_vocabulary(vocabulary)
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if not isinstance(value := model.get(name), str | None) or len(value or "") > _LONGEST:
            raise _unusable(name, value, f"a text of at most {_LONGEST} characters")
    _check_int("max_input_chars_per_word", model.get("max_input_chars_per_word", 100), 0, _LONGEST)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        _check_steps(part, tree.get(part))
    _check_growth(tree.get("normalizer"))
    for part in ("post_processor", "truncation", "padding"):
        for name, value in _leaves(tree.get(part)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_int(f"{part}: {name}", value, 0, 1 if "type_id" in name else _LARGEST_ID)


def _check_pieces(path: Path, stored: bytes) -> None:
    """Raises ValueError unless the file is a model of SentencePiece that makes no text far longer."""
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError as error:
        raise ValueError(
            "it is a model of SentencePiece, which is not installed; pip install 'lit_jax[sentencepiece]'"
        ) from error
    try:
        SentencePieceProcessor(model_file=str(path))
        model = sentencepiece_model_pb2.ModelProto.FromString(stored)
    except Exception as error:  # protobuf and SentencePiece raise several kinds of errors.
        raise ValueError("it is not a model of SentencePiece; download the file again") from error
    if len(model.pieces) > MOST_TOKENS or any(len(piece.piece) > _LONGEST for piece in model.pieces):
        raise ValueError(
            f"it has {len(model.pieces)} pieces; at most {MOST_TOKENS} of {_LONGEST} characters are read"
        )
    table = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    _check_growth({"type": "Precompiled", "precompiled_charsmap": table or None})


def _check_added(tokens: Any) -> None:
    if not isinstance(tokens, list) or len(tokens) > MOST_ADDED:
        count = f"{len(tokens)} of them" if isinstance(tokens, list) else shown(tokens)
        raise ValueError(f"added_tokens: found {count}; wanted a list of at most {MOST_ADDED}")
    for token in tokens:
        if not isinstance(token, dict) or not _is_token(token.get("content")):
            raise _unusable("added_tokens", token, f"a content of at most {_LONGEST} characters")
        _check_int("id of an added token", token.get("id"), 0, _LARGEST_ID)


def _check_vocabulary(tokens: dict[str, Any]) -> None:
    if len(tokens) > MOST_TOKENS:
        raise ValueError(f"it names {len(tokens)} tokens; at most {MOST_TOKENS} are read")
    for token, number in tokens.items():
        if type(number) is not int or not 0 <= number <= _LARGEST_ID:
            raise _unusable(f"id of {shown(token)}", number, f"a whole number from 0 to {_LARGEST_ID}")


def _check_steps(part: str, tree: Any) -> None:
    steps = sum(name == "type" for name, _ in _leaves(tree))
    if steps > _MOST_STEPS or sum(1 for _ in _leaves(tree)) > 100 * _MOST_STEPS:
        raise ValueError(f"{part} has {steps} steps; at most {_MOST_STEPS} are taken")
    for name, value in _leaves(tree):
        if isinstance(value, str) and len(value) > _LONGEST and name != "precompiled_charsmap":
            raise _unusable(
                f"{part}: {name}, of {len(value)} characters", value, f"a text of at most {_LONGEST}"
            )


def _check_growth(tree: Any) -> None:
    """Raises ValueError if the normalizer can make a text more than `MOST_GROWTH` times as long."""
    growth = 1.0
    for node in _objects(tree):
        kind, content = node.get("type"), node.get("content")
        if kind == "Replace" and isinstance(content, str):
            pattern = node.get("pattern")
            plain = pattern.get("String") if isinstance(pattern, dict) else pattern
            # A regular expression can match the empty text before every character.
            growth *= (
                max(1, len(content) / max(1, len(plain))) if isinstance(plain, str) else 1 + len(content)
            )
            if plain == "":
                raise _unusable("normalizer: pattern", plain, "a text that is not empty")
        elif kind == "Prepend":
            growth += len(str(node.get("prepend"))) / MOST_GROWTH
        elif kind == "Precompiled" and (longest := _longest_replacement(node.get("precompiled_charsmap"))):
            growth *= max(1, longest / 32)  # The length of Unicode's longest compatibility form.
    if growth > MOST_GROWTH:
        raise ValueError(
            f"normalizer makes a text up to {growth:.3g} times as long; at most {MOST_GROWTH} times is usable"
        )


def _longest_replacement(charsmap: Any) -> int:
    """Bytes of the longest text that a table of SentencePiece puts in place of a character."""
    if charsmap is None:
        return 0
    try:
        table = base64.b64decode(charsmap, validate=True)
    except (ValueError, TypeError) as error:
        raise _unusable("precompiled_charsmap", charsmap, "a table in base64") from error
    start = 4 + int.from_bytes(table[:4], "little")
    if len(table) < 4 or start > len(table):
        raise _unusable("precompiled_charsmap", charsmap, "a whole table in base64")
    return max(map(len, table[start:].split(b"\0")))


def _check_config(tree: dict[str, Any]) -> None:
    _check_class(tree)
    longest = tree.get("model_max_length")
    if longest is not None and (
        isinstance(longest, bool)
        or not isinstance(longest, int | float)
        or not 1 <= longest < float("inf")
        or longest != int(longest)
    ):
        raise _unusable("model_max_length", longest, "a whole number of at least 1")
    for name in ("padding_side", "truncation_side"):
        if tree.get(name) not in (None, "left", "right"):
            raise _unusable(name, tree[name], "'left' or 'right'")
    if tree.get("pad_token_type_id") is not None:
        _check_int("pad_token_type_id", tree["pad_token_type_id"], 0, 1)
    if not isinstance(prompt := tree.get("text_prompt"), str | None) or len(prompt or "") > _LONGEST:
        raise _unusable("text_prompt", prompt, f"a text of at most {_LONGEST} characters")
    names = tree.get("model_input_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise _unusable("model_input_names", names, "a list of names")
    known = tree.get("added_tokens_decoder") or {}
    if not isinstance(known, dict) or len(known) > MOST_ADDED:
        raise ValueError(
            f"added_tokens_decoder is not usable; wanted an object of at most {MOST_ADDED} tokens"
        )
    for number, token in known.items():
        _check_int("id of an added token", int(number) if number.isdecimal() else number, 0, _LARGEST_ID)
        if not isinstance(token, dict) or not _is_token(token.get("content")):
            raise _unusable("added_tokens_decoder", token, f"a content of at most {_LONGEST} characters")
    _check_special(tree)


def _check_class(tree: dict[str, Any]) -> None:
    if (name := tree.get("tokenizer_class")) in _IN_PYTHON:
        raise _unusable(
            "tokenizer_class",
            name,
            "a tokenizer of characters or pieces of words, such as BertTokenizer: this one finds words with rjieba, in "
            "a step that cannot be copied",
        )
    if not is_tokenizer(name):
        raise _unusable(
            "tokenizer_class",
            name,
            f"the name of a tokenizer that has a fast form, or one of {', '.join(SLOW)}",
        )


def _check_special(tree: dict[str, Any]) -> None:
    for name, value in tree.items():
        if name.endswith("_special_tokens") and isinstance(value, list | dict):
            if len(value) > MOST_ADDED:
                raise ValueError(f"{name} has {len(value)} tokens; at most {MOST_ADDED} are read")
            values = list(value.values()) if isinstance(value, dict) else value
        # Some names begin with add_, and their values are true or false.
        elif name.endswith("_token") and not isinstance(value, bool):
            values = [value]
        else:
            continue
        for token in values:
            content = token.get("content") if isinstance(token, dict) else token
            if content is not None and not _is_token(content):
                raise _unusable(name, token, f"a text of at most {_LONGEST} characters")


def _check_map(tree: dict[str, Any]) -> None:
    if len(tree) > MOST_ADDED:
        raise ValueError(f"it names {len(tree)} tokens; at most {MOST_ADDED} are added")
    _check_vocabulary(tree)


_CHECKS = {
    "tokenizer.json": _check_backend,
    "tokenizer_config.json": _check_config,
    "special_tokens_map.json": _check_special,
    "added_tokens.json": _check_map,
    "vocab.json": _check_vocabulary,
    "config.json": _check_class,
}


def _check_int(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _unusable(name, value, f"a whole number from {least} to {most}")


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def _unusable(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name}={shown(value)} is not usable; wanted {wanted}")


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in a tree, the outer ones first."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _objects(child)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a tree that are neither objects nor lists, each with the nearest key above it."""
    if isinstance(tree, dict | list):
        for key, child in tree.items() if isinstance(tree, dict) else ((name, child) for child in tree):
            yield from _leaves(child, key)
    else:
        yield name, tree


def _patterns(tree: dict[str, Any]) -> Iterator[str]:
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        yield from (
            value for name, value in _leaves(tree.get(part)) if name == "Regex" and isinstance(value, str)
        )
